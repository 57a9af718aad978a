// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/hf/inspect.h"

#include <algorithm>
#include <set>

#include <ATen/ATen.h>

namespace baton::checkpoint::hf {
namespace {

/// The shape that each of a parameter's tensors has in the folder.
std::vector<std::int64_t> shape_there(std::vector<std::int64_t> shape, const TensorPlace& place) {
  if (!place.theirs.empty() && !shape.empty()) {
    shape[0] /= static_cast<std::int64_t>(place.theirs.size());
  }
  if (place.depthwise) {
    shape.insert(shape.begin() + 1, 1);
  }
  return shape;
}

std::vector<std::string> names_of(const ParameterShapes& shapes) {
  std::vector<std::string> names;
  names.reserve(shapes.size());
  for (const auto& [name, shape] : shapes) {
    names.push_back(name);
  }
  return names;
}

} // namespace

TensorFindings inspect_tensors(const ModelFolder& folder, const ParameterShapes& shapes) {
  TensorFindings findings;
  std::set<std::string> used;
  for (const TensorPlace& place : folder.places(names_of(shapes))) {
    const std::vector<std::int64_t> wanted = shape_there(shapes.at(place.ours), place);
    for (const std::string& name : place.theirs) {
      used.insert(name);
      if (folder.tensors().count(name) == 0) {
        findings.missing.push_back(name);
      } else if (folder.find(name).shape != wanted) {
        findings.wrong_shape.push_back(
            name + " has shape " + shape_text(folder.find(name).shape) + ", the config means " +
            shape_text(wanted));
      }
    }
  }
  for (const auto& [name, file] : folder.tensors()) {
    if (used.count(name) == 0) {
      findings.unused.push_back(name);
    }
    const at::Tensor values = file->view(name);
    if (values.is_floating_point() && !at::isfinite(values.to(at::kFloat)).all().item<bool>()) {
      findings.not_finite.push_back(name);
    }
  }
  return findings;
}

std::vector<std::string> changed_by_export(
    const ModelFolder& folder,
    const std::map<std::string, at::Tensor>& parameters) {
  std::vector<std::string> names;
  names.reserve(parameters.size());
  for (const auto& [name, value] : parameters) {
    names.push_back(name);
  }
  std::vector<std::string> changed;
  for (const TensorPlace& place : folder.places(names)) {
    const std::vector<at::Tensor> parts = parts_of(parameters.at(place.ours), place);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const at::Tensor stored = folder.tensors().at(place.theirs[i])->view(place.theirs[i]);
      if (!at::equal(parts[i].detach().cpu().to(stored.scalar_type()), stored)) {
        changed.push_back(place.theirs[i]);
      }
    }
  }
  return changed;
}

} // namespace baton::checkpoint::hf
