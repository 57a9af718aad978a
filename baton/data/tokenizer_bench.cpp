// SPDX-License-Identifier: Apache-2.0
// Encoding and decoding: data_tokenizer_bench [TOKENIZER TEXT_FILE] [options of the benchmark].
// Without arguments, bytes. tools/bench_tokenizers compares with PyPI's tokenizers.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <benchmark/benchmark.h>

#include "baton/base/error.h"
#include "baton/base/file.h"
#include "baton/data/tokenizer.h"

namespace baton {
namespace {

// Documents of the size of a page: each is encoded by a call of its own.
constexpr std::size_t kDocumentBytes = 2000;

struct Subject {
  std::unique_ptr<const Tokenizer> tokenizer;
  std::string text;
};

void bench_encode(benchmark::State& state, const Subject& subject) {
  const std::string_view text = subject.text;
  for (auto _ : state) {
    for (std::size_t at = 0; at < text.size(); at += kDocumentBytes) {
      benchmark::DoNotOptimize(subject.tokenizer->encode(text.substr(at, kDocumentBytes)));
    }
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(text.size()));
}

void bench_decode(benchmark::State& state, const Subject& subject) {
  const std::vector<std::int32_t> ids = subject.tokenizer->encode(subject.text);
  for (auto _ : state) {
    benchmark::DoNotOptimize(subject.tokenizer->decode(ids));
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(subject.text.size()));
}

int run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  Subject subject{make_tokenizer("byte"), std::string(std::size_t{1} << 20, 'a')};
  if (argc == 3) {
    subject = {make_tokenizer(argv[1]), read_file(argv[2])};
  }
  benchmark::RegisterBenchmark("encode", [&subject](benchmark::State& state) {
    bench_encode(state, subject);
  })->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("decode", [&subject](benchmark::State& state) {
    bench_decode(state, subject);
  })->Unit(benchmark::kMillisecond);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

} // namespace
} // namespace baton

int main(int argc, char** argv) {
  try {
    return baton::run(argc, argv);
  } catch (const baton::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
