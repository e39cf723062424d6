// The head of an HTTP/1.1 response as the benchmarks' clients read it: status, length, and when to come back.
#pragma once
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct head {
  int status;
  long long content_length;  // -1: not said
  int retry_after;           // seconds; -1: not said
  int length;                // of the head itself with its empty line, in bytes
};

static const char *header_value(const char *head, const char *name) {
  size_t length = strlen(name);
  for (const char *line = strstr(head, "\r\n"); line && line[2] != '\r'; line = strstr(line + 2, "\r\n"))
    if (!strncasecmp(line + 2, name, length) && line[2 + length] == ':') return line + 3 + length + strspn(line + 3 + length, " \t");
  return NULL;
}

/// 1: read · 0: it is not all there yet · -1: this is no HTTP. `text` ends with a NUL.
static int read_head(const char *text, struct head *head) {
  const char *end = strstr(text, "\r\n\r\n"), *value;
  if (!end) return strlen(text) < 8 || !strncmp(text, "HTTP/1.", 7) ? 0 : -1;
  if (strncmp(text, "HTTP/1.", 7) || text[8] != ' ') return -1;
  head->status = atoi(text + 9);
  head->content_length = (value = header_value(text, "content-length")) ? atoll(value) : -1;
  head->retry_after = (value = header_value(text, "retry-after")) ? atoi(value) : -1;
  head->length = end + 4 - text;
  return 1;
}
