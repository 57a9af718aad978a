// SPDX-License-Identifier: Apache-2.0
// The loss of a run as a picture.
#pragma once

#include <string>
#include <vector>

#include "baton/train/metrics.h"

namespace baton::train {

/// Draws loss over steps as an SVG document: the training loss step by step and smoothed, and the
/// validation loss where it was evaluated. Values that are not finite are left out.
std::string draw_loss_curve(const std::vector<StepMetrics>& metrics, const std::string& title);

} // namespace baton::train
