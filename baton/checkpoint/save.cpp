// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/save.h"

#include <cerrno>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "baton/base/error.h"
#include "baton/base/file.h"
#include "baton/checkpoint/checked_file.h"
#include "baton/checkpoint/load.h"
#include "baton/checkpoint/manifest.h"
#include "baton/checkpoint/safetensors.h"

namespace baton::checkpoint {

namespace testing {
// Tests count, fail or kill here: called with the name of each change to the checkpoints' folder.
void (*before_change)(const std::string& what) = nullptr;
} // namespace testing

namespace {

namespace fs = std::filesystem;

constexpr const char* kParametersFile = "parameters-00000.safetensors";
constexpr const char* kOptimizerFile = "optimizer-00000.safetensors";
constexpr std::string_view kTemporaryMark = ".tmp-";
constexpr std::string_view kRemovedMark = ".removed-";

void announce(const char* what) {
  if (testing::before_change != nullptr) {
    testing::before_change(what);
  }
}

// Held while a process changes the folder of checkpoints; the system drops it with the process, so
// a dead writer blocks nobody. File systems without locks go on without: one run, one writer.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& folder)
      : descriptor_(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (descriptor_ >= 0 && flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      close(descriptor_);
      throw RunError(folder.string() + ": another process is saving a checkpoint here");
    }
  }
  ~FolderLock() {
    if (descriptor_ >= 0) {
      close(descriptor_);
    }
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_;
};

// Takes its folder away again unless the checkpoint was published.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(fs::path path) : path_(std::move(path)) { make_folders(path_.string()); }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::string hidden_name(std::int64_t step, std::string_view mark) {
  return "." + checkpoint_name(step) + std::string(mark) + std::to_string(getpid());
}

bool is_leftover(const std::string& name) {
  return name.compare(0, 6, ".step_") == 0 && (name.find(kTemporaryMark) != std::string::npos ||
                                               name.find(kRemovedMark) != std::string::npos);
}

// Everything hidden belongs to writers that died: a living one would hold the lock.
void remove_leftovers(const fs::path& folder, const Log& log) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator files(folder, error); !error && files != fs::directory_iterator();
       files.increment(error)) {
    if (is_leftover(files->path().filename().string())) {
      found.push_back(files->path());
    }
  }
  for (const fs::path& path : found) {
    fs::remove_all(path, error);
    if (error && log) {
      log(path.string() + ": cannot remove what an earlier save left: " + error.message());
    }
  }
}

TensorRecords write_tensors(const TensorMap& tensors, const fs::path& path, Manifest& manifest) {
  std::vector<NamedTensor> named;
  TensorRecords records;
  const std::string file = path.filename().string();
  for (const auto& [name, tensor] : tensors) {
    named.push_back({name, tensor});
    const std::vector<std::int64_t> shape = tensor.sizes().vec();
    TensorRecord record{stored_dtype(tensor.scalar_type()), shape, {}};
    record.pieces.push_back({file, name, std::vector<std::int64_t>(shape.size(), 0), shape});
    records.emplace(name, std::move(record));
  }
  manifest.files[file] = write_safetensors(path, named, {{"format", "pt"}});
  return records;
}

FileRecord write_text(const fs::path& path, std::string_view text) {
  CheckedFileWriter file(path);
  file.write(text);
  return file.commit();
}

void write_files(const CheckpointContents& contents, const fs::path& folder) {
  Manifest manifest;
  manifest.step = contents.step;
  manifest.program = contents.program;
  manifest.parameters = write_tensors(contents.parameters, folder / kParametersFile, manifest);
  manifest.optimizer_states =
      write_tensors(contents.optimizer_states, folder / kOptimizerFile, manifest);
  manifest.files[kTrainStateFile] =
      write_text(folder / kTrainStateFile, contents.train_state.dump(1) + "\n");
  manifest.files[kRecipeFile] = write_text(folder / kRecipeFile, contents.recipe);
  if (!contents.tokenizer_files.empty()) {
    make_folders((folder / "tokenizer").string());
    for (const auto& [name, bytes] : contents.tokenizer_files) {
      write_text(folder / "tokenizer" / name, bytes);
    }
    sync_folder((folder / "tokenizer").string());
  }
  write_text(folder / kManifestFile, serialise_manifest(manifest));
}

bool exchange(const fs::path& a, const fs::path& b) {
  return syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
}

// Gives the temporary folder its name. A checkpoint that had it ends up in the temporary folder's
// place, or, on file systems that cannot exchange two folders, aside for a moment between two
// renames.
void publish(const fs::path& temporary, const fs::path& final_path, const fs::path& aside) {
  announce("publish");
  std::error_code error;
  if (!fs::exists(fs::symlink_status(final_path, error))) {
    rename_and_sync(temporary.string(), final_path.string());
    return;
  }
  if (exchange(temporary, final_path)) {
    sync_folder(final_path.parent_path().string());
    return;
  }
  rename_and_sync(final_path.string(), aside.string());
  rename_and_sync(temporary.string(), final_path.string());
  fs::remove_all(aside, error);
}

void remove_old(const SaveOptions& options, std::int64_t step) {
  if (options.keep_last <= 0) {
    return;
  }
  int whole = 0;
  for (const CheckpointEntry& entry : list_checkpoints(options.run_folder)) {
    if (entry.step > step) {
      continue;
    }
    if (whole < options.keep_last) {
      whole += entry.step == step || looks_whole(entry) ? 1 : 0;
      continue;
    }
    // Renamed first: a reader never meets a checkpoint of which half is gone.
    const fs::path hidden = entry.folder.parent_path() / hidden_name(entry.step, kRemovedMark);
    announce("remove");
    std::error_code error;
    fs::rename(entry.folder, hidden, error);
    if (!error) {
      announce("delete");
      fs::remove_all(hidden, error);
    }
    if (error && options.log) {
      options.log(entry.folder.string() + ": cannot remove: " + error.message());
    }
  }
}

} // namespace

fs::path save_checkpoint(const CheckpointContents& contents, const SaveOptions& options) {
  const fs::path folder = checkpoints_folder(options.run_folder);
  make_folders(folder.string());
  sync_folder(options.run_folder.empty() ? "." : options.run_folder.string());
  const FolderLock lock(folder);
  remove_leftovers(folder, options.log);
  const fs::path final_path = folder / checkpoint_name(contents.step);
  {
    const TemporaryFolder temporary(folder / hidden_name(contents.step, kTemporaryMark));
    write_files(contents, temporary.path());
    sync_folder(temporary.path().string());
    publish(temporary.path(), final_path, folder / hidden_name(contents.step, kRemovedMark));
  }
  remove_old(options, contents.step);
  return final_path;
}

} // namespace baton::checkpoint
