// SPDX-License-Identifier: Apache-2.0
#include "baton/base/file.h"

#include <filesystem>
#include <string>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "baton/base/error.h"

namespace baton {
namespace {

class File : public ::testing::Test {
 protected:
  File() {
    std::string pattern = (std::filesystem::temp_directory_path() / "baton_file_XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~File() override { std::filesystem::remove_all(folder_); }

  std::size_t count_entries() const {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_)) {
      ++count;
    }
    return count;
  }

  std::string folder_;
};

template <class F>
std::string message_of(F f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST_F(File, WritesReadsAndReplaces) {
  const std::string path = folder_ + "/x";
  for (const std::string& bytes :
       {std::string(), std::string("a\0b", 3), std::string(300000, 'z')}) {
    write_file_atomically(path, bytes);
    EXPECT_EQ(read_file(path), bytes);
  }
  EXPECT_EQ(count_entries(), 1U);
}

TEST_F(File, AbandonedWriterLeavesTheOldFile) {
  const std::string path = folder_ + "/x";
  write_file_atomically(path, "old");
  {
    FileWriter writer(path);
    writer.write("half of the n");
  }
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(count_entries(), 1U);
}

TEST_F(File, ErrorsNamePathAndReason) {
  const std::string missing = folder_ + "/no/file";
  EXPECT_EQ(
      message_of([&] { read_file(missing); }),
      missing + ": cannot open: No such file or directory");
  EXPECT_EQ(
      message_of([&] { write_file_atomically(missing, "x"); }),
      missing + ": cannot write: No such file or directory");
  EXPECT_EQ(message_of([&] { read_file(folder_); }), folder_ + ": cannot read: Is a directory");
  EXPECT_EQ(
      message_of([&] { write_file_atomically(folder_, "x"); }),
      folder_ + ": cannot write: Is a directory");
  EXPECT_EQ(
      message_of([&] { sync_folder(missing); }),
      missing + ": cannot sync this folder: No such file or directory");
  EXPECT_EQ(
      message_of([&] { rename_and_sync(missing, folder_ + "/y"); }),
      missing + ": cannot rename to " + folder_ + "/y: No such file or directory");
  write_file_atomically(folder_ + "/x", "");
  EXPECT_EQ(
      message_of([&] { make_folders(folder_ + "/x/y"); }),
      folder_ + "/x/y: cannot make this folder: Not a directory");
}

TEST_F(File, FullDiskIsAFailedRun) {
  EXPECT_THROW(write_file_atomically("/dev/full", "x"), RunError);
  EXPECT_EQ(
      message_of([] { write_file_atomically("/dev/full", "x"); }),
      "/dev/full: cannot write: No space left on device");
}

TEST_F(File, DevicesAreWrittenToAndStayDevices) {
  write_file_atomically("/dev/null", "x");
  struct stat status {};
  ASSERT_EQ(stat("/dev/null", &status), 0);
  EXPECT_TRUE(S_ISCHR(status.st_mode));
}

TEST_F(File, ReadsFilesThatStateNoSize) {
  EXPECT_NE(read_file("/proc/self/status").find("VmRSS"), std::string::npos);
}

TEST_F(File, MakesFoldersAndRenames) {
  make_folders(folder_ + "/a/b");
  make_folders(folder_ + "/a/b");
  write_file_atomically(folder_ + "/a/b/x", "1");
  rename_and_sync(folder_ + "/a", folder_ + "/c");
  EXPECT_EQ(read_file(folder_ + "/c/b/x"), "1");
}

} // namespace
} // namespace baton
