// SPDX-License-Identifier: Apache-2.0
// The program `baton`: parses the command line, runs one subcommand, turns exceptions into one line
// on stderr and an exit code: 0 done, 1 a run that failed, 2 input that is wrong.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <limits>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>
#include <c10/util/Exception.h>
#include <malloc.h>
#include <poll.h>
#include <unistd.h>

#include "apps/command.h"
#include "apps/device_memory.h"
#include "baton/base/error.h"
#include "baton/base/log.h"
#include "baton/base/version.h"

namespace {

constexpr int kRunFailed = 1;
constexpr int kBadInput = 2;

int report(std::string_view message, int code) {
  std::fflush(stdout);
  std::fprintf(stderr, "error: %s\n", baton::with_log_name(message).c_str());
  return code;
}

// libtorch adds where an exception was raised, for developers: from the second line on, or behind
// the message on the first. What it was raised about is what comes before.
std::string_view first_line(std::string_view message) {
  message = message.substr(0, message.find("Exception raised from"));
  message = message.substr(0, message.find('\n'));
  while (!message.empty() && message.back() == ' ') {
    message.remove_suffix(1);
  }
  return message;
}

// Whether the other end of our output has been closed, as `head` does when it has seen enough.
bool reader_left() {
  pollfd output{STDOUT_FILENO, POLLOUT, 0};
  return poll(&output, 1, 0) > 0 && (output.revents & (POLLERR | POLLHUP)) != 0;
}

// What a full disk did to our output must not pass as success.
int finish_output() {
  std::cout.flush();
  const bool failed = std::fflush(stdout) != 0 || std::ferror(stdout) != 0;
  if (failed && !reader_left()) {
    return report("cannot write to the standard output", kRunFailed);
  }
  return 0;
}

int report_command_line(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
    app.exit(error); // --help and --version print and succeed
    return finish_output();
  }
  const std::vector<std::string> rest = app.remaining();
  if (app.get_subcommands().empty()) {
    return report(
        rest.empty() ? "no command given; see `baton --help`"
                     : "unknown command '" + rest.front() + "'; see `baton --help`",
        kBadInput);
  }
  // Some of CLI11's messages end in a line break or hold several lines.
  std::string message = error.what();
  message.erase(message.find_last_not_of('\n') + 1);
  std::replace(message.begin(), message.end(), '\n', ' ');
  return report(message, kBadInput);
}

// libtorch puts tensors of 2 MB and more on huge pages if this is set: a folder of weights is read
// three times as fast, since the kernel clears far fewer pages.
void ask_for_huge_pages() {
  setenv("THP_MEM_ALLOC_ENABLE", "1", /*overwrite=*/0);
}

// A step allocates what the one before it freed. glibc gives large blocks back to the kernel at
// once and gets them cleared page by page: copies of 32 MB and more then run at a quarter of their
// speed.
void keep_freed_memory() {
#ifdef __GLIBC__
  constexpr int kTopPad = 64 << 20;
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TOP_PAD, kTopPad);
#endif
}

int run(int argc, char** argv) {
  CLI::App app{"Baton trains and runs hybrid Mamba-Transformer language models.", "baton"};
  app.set_version_flag(
      "--version", std::string("baton ") + baton::kVersion, "print the version and exit");
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::simple);
  app.footer("`baton COMMAND --help` explains a command.\n");
  baton::add_data_command(app);
  baton::add_train_command(app);
  baton::add_eval_command(app);
  baton::add_generate_command(app);
  baton::add_logits_command(app);
  baton::add_tokenize_command(app);
  baton::add_pattern_command(app);
  baton::add_reference_command(app);
  baton::add_completion_command(app);
  baton::add_bench_command(app);
  baton::add_convert_command(app);
  baton::add_doctor_command(app);
  baton::add_kernels_command(app);
  baton::add_plan_command(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return report_command_line(app, error);
  }
  return finish_output();
}

} // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  ask_for_huge_pages();
  // A reader that goes away (`baton ... | head`) ends the output, not the program.
  std::signal(SIGPIPE, SIG_IGN);
  // A limit on file sizes fails the write, which has its message, and does not end the program.
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    return run(argc, argv);
  } catch (const baton::RunError& error) {
    return report(error.what(), kRunFailed);
  } catch (const baton::Error& error) {
    return report(error.what(), kBadInput);
  } catch (const c10::OutOfMemoryError& error) {
    return report(
        baton::out_of_memory_line(error, "take shorter inputs or a smaller model"), kRunFailed);
  } catch (const c10::AcceleratorError& error) {
    return report(first_line(error.what_without_backtrace()), kRunFailed);
  } catch (const c10::Error& error) {
    return report(first_line(error.what_without_backtrace()), kBadInput);
  } catch (const std::bad_alloc&) {
    return report("out of memory", kRunFailed);
  } catch (const std::exception& error) {
    return report(first_line(error.what()), kRunFailed);
  }
}
