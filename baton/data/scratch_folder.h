// SPDX-License-Identifier: Apache-2.0
// A folder for the files of one test.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>

#include "baton/data/dataset_writer.h"

namespace baton {

/// Empty at first, named after the running test, gone with the object.
class ScratchFolder {
 public:
  ScratchFolder() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::path(::testing::TempDir()) /
            (std::string(test->test_suite_name()) + "." + test->name() + "." +
             std::to_string(::getpid()));
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }

  /// Writes a file and the folders above it; returns its path.
  std::string write(const std::string& name, const std::string& bytes) const {
    const std::filesystem::path path = path_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
    return path.string();
  }

  /// Names of the files directly inside, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::filesystem::path path_;
};

using Documents = std::vector<std::vector<std::int32_t>>;
using Masks = std::vector<std::vector<std::uint8_t>>;

/// Writes a dataset; `masks` is empty or has an entry (empty or full) for each document.
inline void write_dataset(
    const std::string& prefix,
    const Documents& documents,
    const Masks& masks = {},
    TokenType type = TokenType::kUint16) {
  DatasetWriter writer(prefix, {.type = type});
  for (std::size_t i = 0; i < documents.size(); ++i) {
    writer.add_document(documents[i], masks.empty() ? std::vector<std::uint8_t>() : masks[i]);
  }
  writer.commit();
}

/// The message of the Error that `call` throws; fails the test when it throws none.
template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

} // namespace baton
