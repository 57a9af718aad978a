// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/folder_writer.h"

#include <string>
#include <system_error>

#include <unistd.h>

#include "baton/base/error.h"
#include "baton/base/file.h"

namespace baton::checkpoint {
namespace {

namespace fs = std::filesystem;

} // namespace

FolderWriter::FolderWriter(const fs::path& path) : path_(fs::absolute(path).lexically_normal()) {
  if (path_.filename().empty()) {
    path_ = path_.parent_path(); // "out/"
  }
  std::error_code error;
  if (fs::exists(path_, error) && !(fs::is_directory(path_, error) && fs::is_empty(path_, error))) {
    throw Error(path.string() + ": is there already");
  }
  aside_ =
      path_.parent_path() / ("." + path_.filename().string() + ".tmp-" + std::to_string(getpid()));
  fs::remove_all(aside_, error);
  make_folders(aside_.string());
}

FolderWriter::~FolderWriter() {
  std::error_code ignored;
  fs::remove_all(aside_, ignored);
}

void FolderWriter::commit() {
  sync_folder(aside_.string());
  std::error_code error;
  fs::remove(path_, error); // an empty folder gives way
  rename_and_sync(aside_.string(), path_.string());
}

} // namespace baton::checkpoint
