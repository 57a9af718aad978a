// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/save.h"

#include <algorithm>
#include <cerrno>
#include <functional>
#include <memory>
#include <optional>
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
#include "baton/parallel/text_exchange.h"

namespace baton::checkpoint {

namespace testing {
// Tests count, fail or kill here: called with the name of each change to the checkpoints' folder.
void (*before_change)(const std::string& what) = nullptr;
} // namespace testing

namespace {

namespace fs = std::filesystem;

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

std::string file_name(const char* kind, int rank) {
  std::string digits = std::to_string(rank);
  digits.insert(0, 5 - std::min<std::size_t>(digits.size(), 5), '0');
  return kind + ("-" + digits) + ".safetensors";
}

// The rectangles that a slice consists of, as tensors of a file and as pieces of a record.
void add_pieces(
    const std::string& name,
    const parallel::TensorSlice& slice,
    const std::string& file,
    std::vector<NamedTensor>& named,
    TensorRecord& record) {
  for (const parallel::TensorPiece& piece : slice.pieces) {
    std::int64_t first = 0; // number of the piece's first value in the tensor
    for (std::size_t dim = 0; dim < slice.shape.size(); ++dim) {
      first = first * slice.shape[dim] + piece.start[dim];
    }
    const std::string key = slice.whole() ? name : name + "@" + std::to_string(first);
    named.push_back({key, piece.values});
    record.pieces.push_back({file, key, piece.start, piece.values.sizes().vec()});
  }
}

TensorRecords
write_tensors(const parallel::TensorSlices& slices, const fs::path& path, Manifest& manifest) {
  std::vector<NamedTensor> named;
  TensorRecords records;
  const std::string file = path.filename().string();
  for (const auto& [name, slice] : slices) {
    TensorRecord record{stored_dtype(slice.dtype), slice.shape, {}};
    add_pieces(name, slice, file, named, record);
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

// This rank's files, and its part of the manifest.
Manifest write_share(const CheckpointContents& contents, const fs::path& folder, int rank) {
  Manifest part;
  part.step = contents.step;
  part.program = contents.program;
  if (rank == 0 || !contents.parameters.empty()) {
    part.parameters =
        write_tensors(contents.parameters, folder / file_name("parameters", rank), part);
  }
  if (rank == 0 || !contents.optimizer_states.empty()) {
    part.optimizer_states =
        write_tensors(contents.optimizer_states, folder / file_name("optimizer", rank), part);
  }
  return part;
}

// What other ranks wrote must be here too, whole, before it counts.
void check_files(const Manifest& manifest, const fs::path& folder) {
  for (const auto& [name, record] : manifest.files) {
    const std::uint64_t bytes = FileReader(folder / name).size();
    if (bytes != record.bytes) {
      throw RunError(
          (folder / name).string() + ": has " + std::to_string(bytes) +
          " bytes, its writer wrote " + std::to_string(record.bytes));
    }
  }
}

void write_rest(const CheckpointContents& contents, Manifest manifest, const fs::path& folder) {
  check_files(manifest, folder);
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
  sync_folder(folder.string());
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

// What rank 0 holds from the first file to the rename.
struct Save {
  explicit Save(const fs::path& folder) : lock(folder) {}

  FolderLock lock;
  std::optional<TemporaryFolder> temporary;
};

std::unique_ptr<Save>
begin_save(const SaveOptions& options, const fs::path& folder, std::int64_t step) {
  make_folders(folder.string());
  sync_folder(options.run_folder.empty() ? "." : options.run_folder.string());
  auto save = std::make_unique<Save>(folder);
  remove_leftovers(folder, options.log);
  save->temporary.emplace(folder / hidden_name(step, kTemporaryMark));
  return save;
}

std::vector<Manifest> parse_parts(const std::vector<std::string>& texts) {
  std::vector<Manifest> parts;
  parts.reserve(texts.size());
  for (const std::string& text : texts) {
    parts.push_back(parse_manifest_part(text));
  }
  return parts;
}

} // namespace

fs::path save_checkpoint(const CheckpointContents& contents, const SaveOptions& options) {
  const fs::path folder = checkpoints_folder(options.run_folder);
  const fs::path final_path = folder / checkpoint_name(contents.step);
  const int rank = options.ranks.rank();
  const auto together = [&](const std::function<std::string()>& work) {
    return parallel::do_together(options.ranks, options.device, work);
  };
  std::unique_ptr<Save> save;
  const std::string aside = together([&] {
                              if (rank != 0) {
                                return std::string();
                              }
                              save = begin_save(options, folder, contents.step);
                              return save->temporary->path().filename().string();
                            }).front();
  const std::vector<std::string> parts = together([&] {
    if (!fs::is_directory(folder / aside)) {
      throw RunError(
          (folder / aside).string() + ": made by rank 0, but rank " + std::to_string(rank) +
          " does not see it: run.folder must be a folder that all ranks share");
    }
    return serialise_manifest(write_share(contents, folder / aside, rank));
  });
  together([&] {
    if (rank == 0) {
      write_rest(contents, join_manifests(parse_parts(parts)), folder / aside);
      publish(folder / aside, final_path, folder / hidden_name(contents.step, kRemovedMark));
    }
    return std::string();
  });
  if (rank == 0) {
    save->temporary.reset();
    remove_old(options, contents.step);
  }
  return final_path;
}

} // namespace baton::checkpoint
