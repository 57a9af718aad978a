// SPDX-License-Identifier: Apache-2.0
#include "baton/data/builder.h"

#include <filesystem>
#include <set>

#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/base/file.h"
#include "baton/base/random.h"
#include "baton/data/holdout.h"
#include "baton/data/indexed_dataset.h"
#include "baton/data/scratch_folder.h"
#include "baton/data/tokenizer.h"

namespace baton {
namespace {

BuildConfig config_of(const ScratchFolder& folder, const std::vector<std::string>& inputs) {
  BuildConfig config;
  config.corpus.inputs = inputs;
  config.output = folder / "out/d";
  config.threads = 2;
  return config;
}

// The text of each document of a dataset; the end of the document must follow.
std::vector<std::string> documents_of(const std::string& prefix) {
  const IndexedDataset dataset(prefix);
  const ByteTokenizer tokenizer;
  std::vector<std::string> documents;
  for (std::int64_t i = 0; i < dataset.num_documents(); ++i) {
    std::vector<std::int64_t> tokens(static_cast<std::size_t>(dataset.document_length(i)));
    dataset.read_tokens(i, 0, tokenizer.vocab_size(), tokens);
    EXPECT_EQ(tokens.back(), tokenizer.end_of_document());
    std::string text;
    for (std::size_t k = 0; k + 1 < tokens.size(); ++k) {
      text += tokenizer.token_bytes(static_cast<std::int32_t>(tokens[k]));
    }
    documents.push_back(text);
  }
  return documents;
}

std::string mask_of(const std::string& prefix, std::int64_t document) {
  const IndexedDataset dataset(prefix);
  std::vector<float> mask(static_cast<std::size_t>(dataset.document_length(document)));
  dataset.read_mask(document, 0, mask);
  std::string text;
  for (const float value : mask) {
    text += value == 1.0F ? '1' : '0';
  }
  return text;
}

using Texts = std::vector<std::string>;

TEST(Builder, AFileIsADocumentWithAllItsBytes) {
  const ScratchFolder folder;
  const std::string text = "a \xFF\xC3 broken\nUTF-8\r\n\n";
  const BuildReport report = build_dataset(config_of(folder, {folder.write("a.txt", text)}));
  EXPECT_EQ(documents_of(folder / "out/d"), (Texts{text}));
  ASSERT_EQ(report.datasets.size(), 1U);
  EXPECT_EQ(report.datasets[0].documents, 1);
  EXPECT_EQ(report.datasets[0].tokens, static_cast<std::int64_t>(text.size()) + 1);
  EXPECT_EQ(report.bytes, static_cast<std::int64_t>(text.size()));
  EXPECT_EQ(IndexedDataset(folder / "out/d").type(), TokenType::kUint16);
}

TEST(Builder, SplitsTextAtBlankOrNamedLines) {
  const ScratchFolder folder;
  const std::string text = "\n \t\none\ntwo\n\r\n\nthree\n---\n\nfour";
  BuildConfig config = config_of(folder, {folder.write("a.txt", text)});
  config.overwrite = true;
  config.corpus.split = parse_document_split("blank-line");
  build_dataset(config);
  EXPECT_EQ(documents_of(folder / "out/d"), (Texts{"one\ntwo\n", "three\n---\n", "four"}));
  config.corpus.split = parse_document_split("line=---");
  build_dataset(config);
  EXPECT_EQ(documents_of(folder / "out/d"), (Texts{"\n \t\none\ntwo\n\r\n\nthree\n", "\nfour"}));
  for (const char* bad : {"", "line=", "paragraph"}) {
    EXPECT_THROW(parse_document_split(bad), Error);
  }
}

TEST(Builder, ReadsJsonLines) {
  const ScratchFolder folder;
  const std::string lines =
      "{\"text\": \"a\\nb\", \"other\": 1}\n\n{\"text\": \"\"}\r\n{\"text\": \"\\u20ac\"}";
  BuildConfig config = config_of(folder, {folder.write("a.jsonl", lines)});
  const BuildReport report = build_dataset(config);
  EXPECT_EQ(documents_of(folder / "out/d"), (Texts{"a\nb", "\xE2\x82\xAC"}));
  EXPECT_FALSE(report.datasets[0].masked);

  config.overwrite = true;
  config.field = "body";
  config.corpus.format = CorpusFormat::kJsonLines;
  config.corpus.inputs = {folder.write("b.txt", "{\"body\": \"x\"}\n")};
  build_dataset(config);
  EXPECT_EQ(documents_of(folder / "out/d"), (Texts{"x"}));
  config.corpus.format = CorpusFormat::kText;
  build_dataset(config);
  EXPECT_EQ(documents_of(folder / "out/d"), (Texts{"{\"body\": \"x\"}\n"}));
}

TEST(Builder, TheLossCountsCompletionsOnly) {
  const ScratchFolder folder;
  const std::string lines =
      "{\"text\": \"abc\"}\n"
      "{\"prompt\": \"2+2=\", \"completion\": \"4\"}\n"
      "{\"prompt\": \"no answer\", \"completion\": \"\"}\n";
  const BuildReport report = build_dataset(config_of(folder, {folder.write("a.jsonl", lines)}));
  EXPECT_TRUE(report.datasets[0].masked);
  EXPECT_EQ(documents_of(folder / "out/d"), (Texts{"abc", "2+2=4"}));
  EXPECT_EQ(mask_of(folder / "out/d", 0), "1111");
  EXPECT_EQ(mask_of(folder / "out/d", 1), "000011");
}

TEST(Builder, WalksFoldersSortedAndPassesOverWhatIsNoText) {
  const ScratchFolder folder;
  folder.write("in/b.txt", "b");
  folder.write("in/a/z.txt", "z");
  folder.write("in/a/y.jsonl", "{\"text\": \"y\"}\n");
  folder.write("in/.hidden/x.txt", "hidden");
  folder.write("in/.hidden.txt", "hidden");
  folder.write("in/empty.txt", "");
  folder.write("in/picture.png", std::string("\x89PNG\0\0", 6));
  const BuildReport report = build_dataset(config_of(folder, {folder / "in"}));
  EXPECT_EQ(documents_of(folder / "out/d"), (Texts{"y", "z", "b"}));
  EXPECT_EQ(report.skipped_files, (Texts{folder / "in/empty.txt", folder / "in/picture.png"}));
}

TEST(Builder, BadInputIsNamedAndNothingIsLeft) {
  const ScratchFolder folder;
  const auto refusal = [&](const std::vector<std::string>& inputs) {
    const std::string message = error_of([&] { build_dataset(config_of(folder, inputs)); });
    EXPECT_EQ(message.find('\n'), std::string::npos);
    const std::filesystem::path out = folder / "out";
    EXPECT_TRUE(!std::filesystem::exists(out) || std::filesystem::is_empty(out)) << message;
    return message;
  };
  const auto names = [](const std::string& message, const std::string& part) {
    return message.find(part) != std::string::npos;
  };
  EXPECT_TRUE(names(refusal({}), "no input"));
  EXPECT_TRUE(names(refusal({folder / "none.txt"}), "none.txt: cannot open"));
  EXPECT_TRUE(names(refusal({folder.write("e.txt", "")}), "e.txt: is empty"));
  EXPECT_TRUE(
      names(refusal({folder.write("b.txt", std::string("ab\0c", 4))}), "zero byte at offset 2"));
  std::filesystem::create_directories(folder / "void");
  EXPECT_TRUE(names(refusal({folder / "void"}), "no files"));
  EXPECT_TRUE(names(
      refusal({folder.write("j.jsonl", "{\"text\": \"a\"}\n{\"text\": \n")}),
      "j.jsonl:2: not valid JSON"));
  EXPECT_TRUE(names(
      refusal({folder.write("k.jsonl", "[1]\n")}), "k.jsonl:1: must be a JSON object, not array"));
  EXPECT_TRUE(names(
      refusal({folder.write("l.jsonl", "\n{\"text\": 3}\n")}),
      "l.jsonl:2: \"text\" must be a string, not number"));
  EXPECT_TRUE(names(
      refusal({folder.write("m.jsonl", "{\"prompt\": \"a\"}\n")}), "has neither \"text\" nor"));
  EXPECT_TRUE(names(
      refusal({folder.write("n.jsonl", "{\"text\": \"\xFF\"}\n")}), "n.jsonl:1: not valid JSON"));
  EXPECT_TRUE(names(refusal({folder.write("o.jsonl", "{\"text\": \"\"}\n")}), "no documents"));

  BuildConfig config = config_of(folder, {folder.write("good.txt", "good")});
  config.holdout = 0.5;
  EXPECT_TRUE(names(error_of([&] { build_dataset(config); }), "leaves none for"));
  config.holdout = 1.0;
  EXPECT_TRUE(names(error_of([&] { build_dataset(config); }), "must lie in [0, 1): 1"));
  config.holdout = 0.0;
  build_dataset(config);
  EXPECT_TRUE(names(error_of([&] { build_dataset(config); }), "d.bin: exists already"));
}

// Texts that end in the middle of batches of every kind.
Texts write_corpus(const ScratchFolder& folder) {
  Texts inputs;
  std::string lines;
  std::string paragraphs;
  for (std::uint64_t i = 0; i < 30000; ++i) {
    const auto words = philox(RandomKey(2), i);
    const std::string text(1 + words[0] % 200, static_cast<char>('a' + words[1] % 26));
    lines += (i % 7 == 0 ? R"({"prompt":"p","completion":")" : R"({"text":")") + text + "\"}\n";
    paragraphs += text + "\n\n";
  }
  inputs.push_back(folder.write("in.jsonl", lines));
  inputs.push_back(folder.write("in.txt", paragraphs));
  return inputs;
}

TEST(Builder, FilesDoNotDependOnTheNumberOfThreads) {
  const ScratchFolder folder;
  BuildConfig config = config_of(folder, write_corpus(folder));
  config.corpus.split = parse_document_split("blank-line");
  config.holdout = 0.1;
  for (const int threads : {1, 2, 7}) {
    config.threads = threads;
    config.output = folder / ("t" + std::to_string(threads));
    const BuildReport report = build_dataset(config);
    EXPECT_EQ(report.datasets[0].documents, 54000);
    EXPECT_EQ(report.datasets[1].documents, 6000);
    for (const std::string end :
         {"_train.bin", "_train.idx", "_train.mask.bin", "_valid.bin", "_valid.idx"}) {
      EXPECT_EQ(read_file(config.output + end), read_file(folder / ("t1" + end)));
    }
  }
}

TEST(Builder, TheFirstErrorOfTheCorpusIsReportedWithAnyNumberOfThreads) {
  const ScratchFolder folder;
  std::string lines;
  for (int i = 0; i < 200000; ++i) {
    lines += i == 150000 || i == 190000 ? "broken\n" : "{\"text\": \"some text\"}\n";
  }
  BuildConfig config =
      config_of(folder, {folder.write("a.jsonl", lines), folder.write("b.txt", "")});
  for (const int threads : {1, 2, 16}) {
    config.threads = threads;
    EXPECT_NE(
        error_of([&] { build_dataset(config); }).find("a.jsonl:150001: not valid JSON"),
        std::string::npos);
  }
}

TEST(Holdout, TakesItsShareEvenly) {
  for (const double share : {0.001, 0.02, 0.1, 1.0 / 3.0, 0.5, 0.7}) {
    const Holdout holdout(share, 3);
    std::int64_t held = 0;
    for (std::int64_t i = 0; i < 20000; ++i) {
      held += holdout.contains(i) ? 1 : 0;
      // At no point is the count off by more than the stratum that is under way.
      EXPECT_NEAR(static_cast<double>(held), share * static_cast<double>(i + 1), 1.0 + 1e-6);
    }
  }
  EXPECT_FALSE(Holdout(0.0, 3).contains(0));
}

TEST(Holdout, DependsOnTheSeed) {
  std::set<std::vector<bool>> choices;
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    std::vector<bool> chosen;
    for (std::int64_t i = 0; i < 1000; ++i) {
      chosen.push_back(Holdout(0.02, seed).contains(i));
    }
    choices.insert(chosen);
  }
  EXPECT_EQ(choices.size(), 5U);
}

} // namespace
} // namespace baton
