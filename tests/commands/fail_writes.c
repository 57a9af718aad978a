// SPDX-License-Identifier: Apache-2.0
// Preloaded into the program: file calls below a folder succeed FAIL_AFTER times, then all fail as on
// a full disk. FAIL_FOLDER names the folder, with a slash at its end, FAIL_ERROR the errno.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long calls;

static int fails_path(const char *path) {
  const char *folder = getenv("FAIL_FOLDER");
  if (folder == NULL || strstr(path, folder) == NULL) {
    return 0;
  }
  if (calls++ < atol(getenv("FAIL_AFTER"))) {
    return 0;
  }
  errno = atoi(getenv("FAIL_ERROR"));
  return 1;
}

static int fails_file(int file) {
  char link[64];
  char path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) {
    return 0;
  }
  path[length] = '\0';
  return fails_path(path);
}

ssize_t write(int file, const void *bytes, size_t count) {
  static ssize_t (*real)(int, const void *, size_t);
  if (real == NULL) {
    *(void **)&real = dlsym(RTLD_NEXT, "write");
  }
  return fails_file(file) ? -1 : real(file, bytes, count);
}

int fsync(int file) {
  static int (*real)(int);
  if (real == NULL) {
    *(void **)&real = dlsym(RTLD_NEXT, "fsync");
  }
  return fails_file(file) ? -1 : real(file);
}

int rename(const char *from, const char *to) {
  static int (*real)(const char *, const char *);
  if (real == NULL) {
    *(void **)&real = dlsym(RTLD_NEXT, "rename");
  }
  return fails_path(from) ? -1 : real(from, to);
}
