// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/folder_writer.h"

#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/checkpoint/scratch_folder.h"

namespace baton::checkpoint {
namespace {

namespace fs = std::filesystem;

std::size_t entries_of(const fs::path& folder) {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(FolderWriter, TheFolderAppearsWithTheCommit) {
  const ScratchFolder scratch;
  const fs::path path = scratch.path() / "out";
  {
    FolderWriter writer(path);
    write_bytes(writer.aside() / "file", "bytes");
    EXPECT_EQ(writer.aside().parent_path(), scratch.path()); // where a rename is possible
    EXPECT_FALSE(fs::exists(path));
    writer.commit();
    EXPECT_EQ(read_bytes(path / "file"), "bytes");
  }
  EXPECT_EQ(read_bytes(path / "file"), "bytes");
  EXPECT_EQ(entries_of(scratch.path()), 1U);
}

TEST(FolderWriter, NothingStaysWithoutACommit) {
  const ScratchFolder scratch;
  try {
    FolderWriter writer(scratch.path() / "out");
    write_bytes(writer.aside() / "file", "bytes");
    throw Error("on the way");
  } catch (const Error&) {
  }
  EXPECT_EQ(entries_of(scratch.path()), 0U);
}

TEST(FolderWriter, WhatIsThereIsNotReplaced) {
  const ScratchFolder scratch;
  const fs::path path = scratch.path() / "out";
  fs::create_directory(path);
  write_bytes(path / "file", "mine");
  EXPECT_EQ(message_of([&] { FolderWriter writer(path); }), path.string() + ": is there already");
  write_bytes(scratch.path() / "plain", "mine");
  EXPECT_EQ(
      message_of([&] { FolderWriter writer(scratch.path() / "plain"); }),
      (scratch.path() / "plain").string() + ": is there already");
  EXPECT_EQ(read_bytes(path / "file"), "mine");
  EXPECT_EQ(entries_of(scratch.path()), 2U);
}

TEST(FolderWriter, WhatComesMeanwhileIsNotReplacedEither) {
  const ScratchFolder scratch;
  const fs::path path = scratch.path() / "out";
  {
    FolderWriter writer(path);
    fs::create_directory(path);
    write_bytes(path / "file", "another's");
    EXPECT_THROW(writer.commit(), Error);
  }
  EXPECT_EQ(read_bytes(path / "file"), "another's");
  EXPECT_EQ(entries_of(scratch.path()), 1U);
}

TEST(FolderWriter, AnEmptyFolderGivesWay) {
  const ScratchFolder scratch;
  const fs::path path = scratch.path() / "out";
  fs::create_directory(path);
  FolderWriter writer(path);
  write_bytes(writer.aside() / "file", "bytes");
  writer.commit();
  EXPECT_EQ(read_bytes(path / "file"), "bytes");
}

TEST(FolderWriter, FoldersAboveAreMadeAndSlashesAtTheEndMeanNothing) {
  const ScratchFolder scratch;
  FolderWriter writer(scratch.path() / "a" / "b" / "out" / "");
  write_bytes(writer.aside() / "file", "bytes");
  writer.commit();
  EXPECT_EQ(read_bytes(scratch.path() / "a" / "b" / "out" / "file"), "bytes");
  EXPECT_EQ(entries_of(scratch.path() / "a" / "b"), 1U);
}

} // namespace
} // namespace baton::checkpoint
