// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/cache_key.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "baton/jit/example_kernels.h"

namespace baton::jit {
namespace {

TEST(CacheKey, EveryPartChangesIt) {
  std::set<std::string> keys;
  const auto add = [&keys](const CompileRequest& request) {
    EXPECT_TRUE(keys.insert(example_key(request)).second);
  };
  const CompileRequest plain = example_request("text");
  add(plain);
  CompileRequest changed = plain;
  changed.source.text += " ";
  add(changed);
  changed = plain;
  changed.source.name = "baton/ops/cuda/other.cu";
  add(changed);
  changed = plain;
  changed.headers[0].text += " ";
  add(changed);
  changed = plain;
  changed.headers[0].name += "x";
  add(changed);
  changed = plain;
  std::swap(changed.headers[0].text, changed.headers[1].text);
  add(changed);
  changed = plain;
  changed.headers.pop_back();
  add(changed);
  changed = plain;
  changed.options = {"-DCHUNK=128"};
  add(changed);
  changed.options = {"-DCHUNK=64", "-DCHUNK=128"};
  add(changed);
  changed.options = {"-DCHUNK=128", "-DCHUNK=64"};
  add(changed);
  changed = plain;
  changed.arch = "sm_80";
  add(changed);
  changed = plain;
  changed.entry = "baton::scan<128>";
  add(changed);
  EXPECT_TRUE(keys.insert(cache_key(plain, "example 1.1")).second);
}

TEST(CacheKey, LabelAndOrderOfHeadersDoNotCount) {
  const CompileRequest plain = example_request("text");
  CompileRequest changed = plain;
  changed.name = "another label";
  std::reverse(changed.headers.begin(), changed.headers.end());
  EXPECT_EQ(example_key(changed), example_key(plain));
}

TEST(CacheKey, PartsDoNotRunIntoEachOther) {
  CompileRequest one = example_request("text");
  CompileRequest other = one;
  one.options = {"-DA", "-DB"};
  other.options = {"-DA-DB"};
  EXPECT_NE(example_key(one), example_key(other));
  other.options = {"-DA4:-DB"};
  EXPECT_NE(example_key(one), example_key(other));
  one.headers.clear();
  one.source = {"ab", "c"};
  other = one;
  other.source = {"a", "bc"};
  EXPECT_NE(example_key(one), example_key(other));
}

} // namespace
} // namespace baton::jit
