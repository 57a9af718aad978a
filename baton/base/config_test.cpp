// SPDX-License-Identifier: Apache-2.0
#include "baton/base/config.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "baton/base/config_text.h"
#include "baton/base/error.h"

namespace baton {
namespace {

struct Train {
  double lr = 3e-4;
  std::int64_t steps = 100;
  std::string schedule = "cosine";
  bool deterministic = true;
  std::vector<double> betas = {0.9, 0.95};

  template <class V>
  void visit(V& v) {
    v.field("lr", lr, "peak learning rate", Range{0.0, 1.0});
    v.field("steps", steps, "optimizer steps", Range::at_least(1));
    v.field("schedule", schedule, "course of lr", Choice{"cosine", "linear"});
    v.field("deterministic", deterministic, "equal bits in every run");
    v.field("betas", betas, "decay of the moments", Range{0.0, 1.0});
  }
};

struct Data {
  std::vector<std::string> train;
  std::vector<std::int64_t> lengths;
  std::vector<bool> masks;

  template <class V>
  void visit(V& v) {
    v.field("train", train, "files to train on");
    v.field("lengths", lengths, "tokens a document", Range::above(0));
    v.field("masks", masks, "which are masked");
  }
};

struct Recipe {
  Data data;
  Train train;
  std::string name = "run";
  double limit = std::numeric_limits<double>::infinity();

  template <class V>
  void visit(V& v) {
    v.group("data", data);
    v.group("train", train);
    v.field("name", name, "name | title");
    v.field("limit", limit, "upper limit");
  }
};

std::string toml_error(const std::string& toml) {
  Recipe recipe;
  try {
    read_config(recipe, toml, "recipe.toml");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string set_error(const std::string& assignment) {
  Recipe recipe;
  try {
    set_config(recipe, assignment);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Config, ReadsEveryType) {
  Recipe recipe;
  read_config(
      recipe,
      "name = \"a b\"\nlimit = -1\n[train]\nlr = 1\nsteps = 1_000\nschedule = 'linear'\n"
      "deterministic = false\nbetas = [0, 0.5]\n[data]\ntrain = ['x', \"y\"]\nlengths = [1, 2]\n"
      "masks = [true]\n",
      "recipe.toml");
  EXPECT_EQ(recipe.name, "a b");
  EXPECT_EQ(recipe.limit, -1.0);
  EXPECT_EQ(recipe.train.lr, 1.0);
  EXPECT_EQ(recipe.train.steps, 1000);
  EXPECT_EQ(recipe.train.schedule, "linear");
  EXPECT_FALSE(recipe.train.deterministic);
  EXPECT_EQ(recipe.train.betas, (std::vector<double>{0.0, 0.5}));
  EXPECT_EQ(recipe.data.train, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(recipe.data.lengths, (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(recipe.data.masks, std::vector<bool>{true});
}

TEST(Config, AbsentKeysKeepTheirValues) {
  Recipe recipe;
  recipe.train.steps = 7;
  read_config(recipe, "", "recipe.toml");
  read_config(recipe, "[train]\nlr = 0.5", "recipe.toml");
  EXPECT_EQ(recipe.train.steps, 7);
  EXPECT_EQ(recipe.train.lr, 0.5);
}

TEST(Config, BadTextNamesLineKeyAndValue) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[train]\nlrr = 1", "recipe.toml:2: unknown key 'train.lrr', did you mean 'train.lr'?"},
      {"[trian]\nlr = 1", "recipe.toml:1: unknown key 'trian', did you mean 'train'?"},
      {"steps = 3", "recipe.toml:1: unknown key 'steps', did you mean 'train.steps'?"},
      {"[train]\nzzzzzzzz = 1", "recipe.toml:2: unknown key 'train.zzzzzzzz'"},
      {"\n\n[train]\nlr = 3.5", "recipe.toml:4: train.lr: must be in [0, 1], got 3.5"},
      {"[train]\nlr = -1", "recipe.toml:2: train.lr: must be in [0, 1], got -1"},
      {"[train]\nlr = nan", "recipe.toml:2: train.lr: must be a number, got nan"},
      {"[train]\nlr = inf", "recipe.toml:2: train.lr: must be in [0, 1], got inf"},
      {"[train]\nlr = '1'", "recipe.toml:2: train.lr: must be a number, got \"1\""},
      {"[train]\nlr = true", "recipe.toml:2: train.lr: must be a number, got true"},
      {"[train]\nlr = [1]", "recipe.toml:2: train.lr: must be a number, got a list"},
      {"[train.lr]\na = 1", "recipe.toml:1: train.lr: must be a number, got a table"},
      {"[train]\nlr = 1979-05-27", "recipe.toml:2: train.lr: must be a number, got a date or time"},
      {"[train]\nsteps = 1e3", "recipe.toml:2: train.steps: must be an integer, got 1000.0"},
      {"[train]\nsteps = 0", "recipe.toml:2: train.steps: must be at least 1, got 0"},
      {"[train]\nschedule = 'cosin'",
       "recipe.toml:2: train.schedule: must be one of \"cosine\", \"linear\", got \"cosin\", did "
       "you mean \"cosine\"?"},
      {"[train]\nschedule = 3", "recipe.toml:2: train.schedule: must be a string, got 3"},
      {"[train]\ndeterministic = 1",
       "recipe.toml:2: train.deterministic: must be true or false, got 1"},
      {"[train]\nbetas = 0.5", "recipe.toml:2: train.betas: must be a list, got 0.5"},
      {"[train]\nbetas = [0.5, 2.0]", "recipe.toml:2: train.betas: must be in [0, 1], got 2.0"},
      {"[data]\nlengths = [0]", "recipe.toml:2: data.lengths: must be above 0, got 0"},
      {"[data]\ntrain = [1]", "recipe.toml:2: data.train: must be a string, got 1"},
      {"[[data]]\n", "recipe.toml:1: data: is a group of keys, got a list"},
      {"train = 3", "recipe.toml:1: train: is a group of keys, got 3"},
      {"name = \"a\\u0000b\"", "recipe.toml:1: name: must not hold a zero character"},
  };
  for (const auto& [toml, message] : cases) {
    EXPECT_EQ(toml_error(toml), message) << toml;
  }
}

TEST(Config, BadSyntaxNamesFileAndLine) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[train]\nlr = ", "recipe.toml:2: "},
      {"[train]\nlr = 1\nlr = 2", "recipe.toml:3: "},
      {"[train\n", "recipe.toml:1: "},
      {"name = \"open", "recipe.toml:1: "},
      {"name = \"\xff\"", "recipe.toml:1: "},
      {"[train]\nsteps = 99999999999999999999", "recipe.toml:2: "},
      {"= 3", "recipe.toml:1: "},
      {std::string("a\0b", 3), "recipe.toml:1: "},
      {"limit = " + std::string(1000, '['), "recipe.toml:1: "},
  };
  for (const auto& [toml, place] : cases) {
    const std::string message = toml_error(toml);
    EXPECT_EQ(message.substr(0, place.size()), place) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_LT(message.size(), 200U);
  }
}

std::string utf8(std::uint32_t character) {
  std::string bytes;
  const int tails = character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;
  const std::uint32_t lead = 0xFFU << (7 - tails) & 0xFFU;
  bytes += static_cast<char>(lead | (character >> (6 * tails)));
  for (int tail = tails - 1; tail >= 0; --tail) {
    bytes += static_cast<char>(0x80U | (character >> (6 * tail) & 0x3FU));
  }
  return bytes;
}

TEST(Config, NoCharacterOutsideTextIsTaken) {
  // All of Unicode in steps that meet each of the blocks that a parser may treat by itself.
  for (std::uint32_t character = 0xA1; character < 0x110000; character += 61) {
    if ((character >= 0xD800 && character < 0xE000) || character == 0x3000) {
      continue; // surrogates are no characters; white space may stand there
    }
    const std::string message = toml_error("name = " + utf8(character) + "6");
    EXPECT_EQ(message.rfind("recipe.toml:1: ", 0), 0U) << character << ": " << message;
    EXPECT_EQ(toml_error("name = 'x' # " + utf8(character)), "") << character;
  }
}

TEST(Config, FailedReadChangesNothing) {
  Recipe recipe;
  EXPECT_THROW(read_config(recipe, "name = 'new'\n[train]\nlr = 9", "recipe.toml"), Error);
  EXPECT_EQ(recipe.name, "run");
  EXPECT_EQ(recipe.train.lr, 3e-4);
}

TEST(Config, SetsOneKey) {
  Recipe recipe;
  set_config(recipe, "train.lr=1e-2");
  set_config(recipe, "train.steps = 12");
  set_config(recipe, "train.schedule=linear");
  set_config(recipe, "train.deterministic=false");
  set_config(recipe, "train.betas=0.5,0.25");
  set_config(recipe, "data.train=a b.txt, c=d.txt");
  set_config(recipe, "data.lengths=[3]");
  set_config(recipe, "name=\"quoted\\n\"");
  EXPECT_EQ(recipe.train.lr, 1e-2);
  EXPECT_EQ(recipe.train.steps, 12);
  EXPECT_EQ(recipe.train.schedule, "linear");
  EXPECT_FALSE(recipe.train.deterministic);
  EXPECT_EQ(recipe.train.betas, (std::vector<double>{0.5, 0.25}));
  EXPECT_EQ(recipe.data.train, (std::vector<std::string>{"a b.txt", "c=d.txt"}));
  set_config(recipe, R"(data.train=["a,b", "c"])");
  EXPECT_EQ(recipe.data.train, (std::vector<std::string>{"a,b", "c"}));
  set_config(recipe, "data.train=[]");
  EXPECT_TRUE(recipe.data.train.empty());
  read_config(recipe, "[data]\ntrain = 'alone'", "recipe.toml");
  EXPECT_EQ(recipe.data.train, (std::vector<std::string>{"alone"}));
  EXPECT_EQ(recipe.data.lengths, std::vector<std::int64_t>{3});
  EXPECT_EQ(recipe.name, "quoted\n");
  set_config(recipe, "data.train=");
  EXPECT_TRUE(recipe.data.train.empty());
  set_config(recipe, "name=C:\\dir \"x\"");
  EXPECT_EQ(recipe.name, "C:\\dir \"x\"");
  set_config(recipe, "name=");
  EXPECT_EQ(recipe.name, "");
}

TEST(Config, BadAssignmentNamesKeyAndValue) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"train.lr", "--set: must be KEY=VALUE, got \"train.lr\""},
      {"", "--set: must be KEY=VALUE, got \"\""},
      {"=3", "--set: unknown key ''"},
      {"train.lrr=3", "--set: unknown key 'train.lrr', did you mean 'train.lr'?"},
      {"train=3", "--set: train: is a group of keys, set one of them"},
      {"train.lr=abc", "--set: train.lr: must be a number, got \"abc\""},
      {"train.lr=", "--set: train.lr: must be a number, got \"\""},
      {"train.lr=2", "--set: train.lr: must be in [0, 1], got 2"},
      {"train.lr=0.1\nx = 3", "--set: train.lr: must be a number, got \"0.1\\nx = 3\""},
      {"train.steps=1.5", "--set: train.steps: must be an integer, got 1.5"},
      {"train.deterministic=yes", "--set: train.deterministic: must be true or false, got \"yes\""},
      {"train.betas=[0.1", "--set: train.betas: must be a list of numbers, got \"[0.1\""},
      {"train.betas=a,b", "--set: train.betas: must be a list of numbers, got \"a,b\""},
      {"name=\"open", "--set: name: must be a string, got \"\\\"open\""},
  };
  for (const auto& [assignment, message] : cases) {
    EXPECT_EQ(set_error(assignment), message) << assignment;
  }
  EXPECT_NE(set_error("name=\xff"), "");
}

bool same_bits(double a, double b) {
  return std::memcmp(&a, &b, sizeof(a)) == 0;
}

TEST(Config, PrintedTomlReadsBackToTheSameBits) {
  const double smallest = std::numeric_limits<double>::denorm_min();
  for (const double value : {0.1, 1.0, -0.0, 1e22, 1e300, smallest, 2.0 / 3.0, 123456789.0}) {
    Recipe recipe;
    recipe.limit = value;
    recipe.name = "tab\t, \"quotes\", \\, \x7f, \xc3\xa9, line\nbreak";
    recipe.train.betas = {1.0 / 3.0};
    recipe.data.masks = {true, false};
    Recipe back;
    read_config(back, config_to_toml(recipe), "printed");
    EXPECT_TRUE(same_bits(back.limit, value)) << config_to_toml(recipe);
    EXPECT_EQ(back.name, recipe.name);
    EXPECT_EQ(back.train.betas, recipe.train.betas);
    EXPECT_EQ(back.data.masks, recipe.data.masks);
    EXPECT_EQ(config_to_toml(back), config_to_toml(recipe));
  }
}

TEST(Config, PrintsTomlJsonAndReference) {
  const std::string toml = config_to_toml(Recipe());
  EXPECT_EQ(toml.substr(0, toml.find("[data]")), "name = \"run\"\nlimit = inf\n\n");
  EXPECT_NE(toml.find("\n[train]\nlr = 3e-4\nsteps = 100\n"), std::string::npos) << toml;
  const std::string json = config_to_json(Recipe());
  EXPECT_NE(json.find("\"betas\": [\n      0.9,\n      0.95\n    ]"), std::string::npos) << json;
  EXPECT_NE(json.find("\"limit\": \"inf\""), std::string::npos) << json;
  const std::string reference = config_reference<Recipe>();
  EXPECT_NE(
      reference.find("| `train.lr` | a number | `3e-4` | in [0, 1] | peak learning rate |"),
      std::string::npos)
      << reference;
  EXPECT_NE(reference.find("name \\| title"), std::string::npos) << reference;
}

TEST(Config, RulesAsText) {
  EXPECT_EQ(rule_text(Range{0.0, 1.5}), "in [0, 1.5]");
  EXPECT_EQ(rule_text(Range{0.0, 1.0, true}), "in (0, 1]");
  EXPECT_EQ(rule_text(Range::at_least(2)), "at least 2");
  EXPECT_EQ(rule_text(Range::above(0)), "above 0");
  EXPECT_EQ(rule_text(Range{-std::numeric_limits<double>::infinity(), 3.0}), "at most 3");
  EXPECT_EQ(rule_text({}), "");
}

} // namespace
} // namespace baton
