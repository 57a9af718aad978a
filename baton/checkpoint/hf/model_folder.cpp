// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/hf/model_folder.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include <ATen/ATen.h>

#include "baton/base/error.h"
#include "baton/base/file.h"
#include "baton/checkpoint/hf/shard_index.h"
#include "baton/checkpoint/strict_json.h"
#include "baton/model/pattern.h"

namespace baton::checkpoint::hf {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = "config.json";
constexpr const char* kWhole = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr std::uintmax_t kMostTextBytes = 100 << 20; // of a config or an index

/// The file `name` of a folder, as the system finds it. A link may lead to another place of the
/// folder or, in the cache of Hugging Face's hub, to the blobs beside the snapshots.
fs::path inside(const fs::path& folder, const std::string& name) {
  const fs::path path = folder / name;
  std::error_code error;
  const fs::path home = fs::canonical(folder, error);
  const fs::path found = error ? fs::path() : fs::canonical(path, error);
  if (error) {
    throw Error(path.string() + ": " + error.message());
  }
  const bool in_hub = home.parent_path().filename() == "snapshots";
  const fs::path blobs = home.parent_path().parent_path() / "blobs";
  if (found.parent_path() != home && !(in_hub && found.parent_path() == blobs)) {
    throw Error(path.string() + ": is a link out of the folder, to " + found.string());
  }
  if (!fs::is_regular_file(found, error)) {
    throw Error(path.string() + ": is not a regular file"); // a pipe would be waited for
  }
  return found;
}

std::string read_text(const fs::path& folder, const std::string& name) {
  const fs::path path = inside(folder, name);
  std::error_code error;
  if (fs::file_size(path, error) > kMostTextBytes && !error) {
    throw Error((folder / name).string() + ": is larger than 100 MB");
  }
  return read_file(path.string());
}

template <class Parse>
auto parse_text(const fs::path& folder, const std::string& name, const Parse& parse) {
  const std::string text = read_text(folder, name);
  try {
    return parse(text);
  } catch (const RunError&) {
    throw;
  } catch (const Error& error) {
    throw Error((folder / name).string() + ": " + error.what());
  }
}

/// A file of pickled tensors, or an empty name.
std::string pickle_in(const fs::path& folder) {
  std::error_code error;
  std::vector<std::string> found;
  for (fs::directory_iterator file(folder, error), end; !error && file != end;
       file.increment(error)) {
    const std::string ending = file->path().extension().string();
    if (ending == ".bin" || ending == ".pt" || ending == ".pth" || ending == ".ckpt" ||
        ending == ".pkl") {
      found.push_back(file->path().filename().string());
    }
  }
  std::sort(found.begin(), found.end());
  return found.empty() ? "" : found.front();
}

} // namespace

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t size : shape) {
    text += (text.empty() ? "[" : ", ") + std::to_string(size);
  }
  return text.empty() ? "[]" : text + "]";
}

bool is_model_folder(const fs::path& folder) {
  std::error_code error;
  return fs::exists(folder / kConfig, error);
}

ModelFolder::ModelFolder(const fs::path& folder) : folder_(folder) {
  const std::string where = (folder / kConfig).string();
  config_ = parse_text(folder, kConfig, parse_config_json);
  family_ = &family_of(config_, where);
  model_config_ = read_model_config(*family_, ConfigReader(config_, where));
  open_tensor_files();
  check_layers();
  settle_dtype();
}

void ModelFolder::add_file(const std::string& name) {
  if (files_.count(name) == 0) {
    inside(folder_, name);
    files_.emplace(name, SafetensorsFile(folder_ / name));
  }
}

void ModelFolder::open_tensor_files() {
  std::error_code error;
  if (fs::exists(folder_ / kIndex, error)) {
    const auto shards = parse_text(folder_, kIndex, parse_shard_index);
    for (const auto& [tensor, name] : shards) {
      std::error_code absent;
      if (!fs::exists(folder_ / name, absent)) {
        throw Error((folder_ / name).string() + ": is missing, " + kIndex + " names it");
      }
      add_file(name);
      if (!files_.at(name).contains(tensor)) {
        throw Error(
            (folder_ / name).string() + ": holds no tensor " + in_quotes(tensor) + ", which " +
            kIndex + " says it does");
      }
    }
  } else if (fs::exists(folder_ / kWhole, error)) {
    add_file(kWhole);
  } else {
    const std::string pickle = pickle_in(folder_);
    throw Error(
        pickle.empty()
            ? folder_.string() + ": holds neither " + kWhole + " nor " + kIndex
            : (folder_ / pickle).string() +
                  ": is a pickle file, which would execute what it holds; save it as safetensors");
  }
  for (const auto& [name, file] : files_) {
    for (const StoredTensor& tensor : file.header().tensors) {
      if (!tensors_.emplace(tensor.name, &file).second) {
        throw Error(
            (folder_ / name).string() + ": holds the tensor " + in_quotes(tensor.name) +
            ", another file too");
      }
    }
  }
  root_ = family_->roots.front();
  for (const std::string& root : family_->roots) {
    const auto first = tensors_.lower_bound(root + ".");
    if (first != tensors_.end() && first->first.rfind(root + ".", 0) == 0) {
      root_ = root;
      break;
    }
  }
}

void ModelFolder::check_layers() const {
  // Each has a tensor at least, so that no model far larger than its files is built.
  const auto layers = model::parse_pattern(model_config_.pattern).layers.size();
  if (layers > tensors_.size()) {
    throw Error(
        folder_.string() + ": holds " + std::to_string(tensors_.size()) +
        " tensors, config.json means " + std::to_string(layers) + " layers");
  }
}

void ModelFolder::settle_dtype() {
  // A config that names no type leaves it to the files.
  const ConfigReader reader(config_, kConfig);
  if (reader.has("dtype") || reader.has("torch_dtype")) {
    return;
  }
  const auto embedding = tensors_.find(places({"embedding.weight"}).front().theirs.front());
  if (embedding != tensors_.end()) {
    const StoredDtype stored = embedding->second->find(embedding->first).dtype;
    model_config_.dtype = stored == StoredDtype::kBF16  ? "bf16"
                          : stored == StoredDtype::kF64 ? "fp64"
                                                        : "fp32";
  }
}

const StoredTensor& ModelFolder::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    throw Error(folder_.string() + ": holds no tensor " + in_quotes(name) + ", which is wanted");
  }
  return found->second->find(name);
}

std::vector<TensorPlace> ModelFolder::places(const std::vector<std::string>& parameters) const {
  const std::string layers = model::parse_pattern(model_config_.pattern).layers;
  std::vector<TensorPlace> found;
  found.reserve(parameters.size());
  for (const std::string& parameter : parameters) {
    found.push_back(place_of(*family_, layers, root_, parameter));
  }
  return found;
}

void ModelFolder::each_part(
    const std::map<std::string, at::Tensor>& targets,
    const std::function<void(const std::string&, const at::Tensor&)>& work) const {
  std::vector<std::string> names;
  names.reserve(targets.size());
  for (const auto& [name, target] : targets) {
    names.push_back(name);
  }
  for (const TensorPlace& place : places(names)) {
    const std::vector<at::Tensor> parts = parts_of(targets.at(place.ours), place);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      work(place.theirs[i], parts[i]);
    }
  }
}

void ModelFolder::check_parameters(const std::map<std::string, at::Tensor>& targets) const {
  each_part(targets, [&](const std::string& name, const at::Tensor& part) {
    const StoredTensor& stored = find(name);
    if (part.sizes() != at::IntArrayRef(stored.shape)) {
      throw Error(
          tensors_.at(name)->file().path().string() + ": tensor " + in_quotes(name) +
          " has shape " + shape_text(stored.shape) + ", the config means " +
          shape_text(part.sizes().vec()));
    }
  });
}

void ModelFolder::read_parameters(const std::map<std::string, at::Tensor>& targets) const {
  check_parameters(targets);
  each_part(targets, [&](const std::string& name, const at::Tensor& part) {
    tensors_.at(name)->read_into(name, part, DtypeRule::kConvert);
  });
}

std::uint64_t ModelFolder::tensor_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& [name, file] : tensors_) {
    const StoredTensor& tensor = file->find(name);
    bytes += tensor.end - tensor.begin;
  }
  return bytes;
}

} // namespace baton::checkpoint::hf
