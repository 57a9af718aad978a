// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/source.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "baton/base/error.h"

namespace baton::jit {
namespace {

const std::vector<EmbeddedFile> kFiles = {
    {"baton/ops/cuda/scan.cu",
     "#include <cuda_bf16.h>\n"
     "  #  include \"baton/ops/cuda/tile.cuh\" // why\n"
     "#include \"baton/ops/cuda/math.cuh\"\n"
     "#define include \"baton/ops/cuda/unused.cuh\"\n"
     "const char* text = \"baton/ops/cuda/unused.cuh\";\n"},
    {"baton/ops/cuda/tile.cuh", "#pragma once\n#include \"baton/ops/cuda/deep.cuh\""},
    {"baton/ops/cuda/math.cuh", "#pragma once\n#include\"baton/ops/cuda/deep.cuh\"\n"},
    {"baton/ops/cuda/deep.cuh", "#pragma once\n#include \"baton/ops/cuda/tile.cuh\"\n"},
    {"baton/ops/cuda/unused.cuh", ""},
    {"baton/ops/cuda/torn.cu", "#include \"baton/ops/cuda/title.cuh\"\n"},
};

std::string error_of(const std::string& name) {
  try {
    find_source(kFiles, name);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Source, BringsAllHeadersItReaches) {
  const DeviceSource found = find_source(kFiles, "baton/ops/cuda/scan.cu");
  EXPECT_EQ(found.source.name, "baton/ops/cuda/scan.cu");
  EXPECT_EQ(found.source.text, kFiles[0].text);
  std::vector<std::string> names;
  for (const SourceFile& header : found.headers) {
    names.push_back(header.name);
  }
  EXPECT_EQ(
      names,
      (std::vector<std::string>{
          "baton/ops/cuda/deep.cuh", "baton/ops/cuda/math.cuh", "baton/ops/cuda/tile.cuh"}));
  EXPECT_EQ(found.headers[2].text, kFiles[1].text);
  EXPECT_TRUE(find_source(kFiles, "baton/ops/cuda/unused.cuh").headers.empty());
}

TEST(Source, MissingFilesAreNamed) {
  EXPECT_EQ(
      error_of("baton/ops/cuda/scam.cu"),
      "no device source baton/ops/cuda/scam.cu is part of this build; did you mean "
      "baton/ops/cuda/scan.cu?");
  EXPECT_EQ(
      error_of("baton/ops/cuda/torn.cu"),
      "baton/ops/cuda/torn.cu: no device source baton/ops/cuda/title.cuh is part of this build; "
      "did you mean baton/ops/cuda/tile.cuh?");
  EXPECT_EQ(error_of("quite another"), "no device source quite another is part of this build");
}

// Every file that the build put into the binary is whole and has its headers.
TEST(Source, EmbeddedFilesAreWhole) {
  for (const EmbeddedFile& file : embedded_files()) {
    const DeviceSource found = device_source(file.name);
    EXPECT_EQ(found.source.text, file.text);
    EXPECT_EQ(found.source.text.find('\0'), std::string::npos) << file.name;
    const std::string comment = found.source.text.substr(0, found.source.text.find(' '));
    EXPECT_TRUE(comment == "//" || comment == "#") << file.name; // of C++, or of TOML
    EXPECT_EQ(found.source.text.find(" SPDX-License-Identifier: Apache-2.0\n"), comment.size())
        << file.name;
  }
  EXPECT_THROW(device_source("baton/ops/cuda/none.cu"), Error);
}

} // namespace
} // namespace baton::jit
