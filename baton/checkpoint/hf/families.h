// SPDX-License-Identifier: Apache-2.0
// The families that there are, each in the file of its name, and what their tables share.
#pragma once

#include <vector>

#include "baton/checkpoint/hf/config_keys.h"
#include "baton/checkpoint/hf/family.h"

namespace baton::checkpoint::hf {

Family nemotron_h();         ///< NVIDIA's Nemotron-H: one mixer, attention or MLP layer an index
Family mamba2();             ///< transformers' Mamba-2: mixers alone
Family bamba();              ///< IBM's Bamba: mixer or attention, then a gated MLP, an index
Family granite_moe_hybrid(); ///< IBM's Granite 4 hybrid, dense: as Bamba, with multipliers
Family state_spaces();       ///< mamba_ssm's own layout of Mamba-2

/// "num_attention_heads" and "num_key_value_heads", which may be absent.
std::vector<ConfigKey> attention_head_keys();

/// Keys of attention and of positions, as Bamba and Granite have them. The channels of a head are
/// hidden_size / num_attention_heads unless "head_dim" says otherwise.
std::vector<ConfigKey> attention_keys();

/// "rope_parameters", with the keys that older files have in its place. `fraction` turns where no
/// key says how many channels do.
ConfigKey rope_key(double fraction);

/// Keys "mamba_n_heads", "mamba_d_head", ... of a mixer, as Bamba and Granite have them.
std::vector<ConfigKey> mamba_keys();

/// Whether config.json's model_type is `name`.
std::function<bool(const nlohmann::json&)> owns_type(std::string name);

} // namespace baton::checkpoint::hf
