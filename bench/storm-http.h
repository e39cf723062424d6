// HTTP of the storm's machines: iPXE's script, kernel and initrds, then the initrd stage's session and its image, with 503, Retry-After and Range.
#include "storm-node.h"

enum { CONNECT_BODY = -1, IN_HEAD, IN_BODY, SILENCE_S = 30, IPXE_RETRY_S = 5 };

static const struct content *expected(const struct node *n) {
  return n->step == KERNEL ? &kernel : n->step == INITRD ? &initrd : n->step == IMAGE ? &image : NULL;
}

/// `http://10.80.0.1:8080/path`; the path, or NULL. Names are no part of a netboot.
static const char *read_url(struct node *n, const char *url) {
  char host[64];
  int port = 80, used = 0;
  if (sscanf(url, "http://%63[0-9.]:%d%n", host, &port, &used) < 2 && sscanf(url, "http://%63[0-9.]%n", host, &used) < 1) return NULL;
  n->host.sin_family = AF_INET;
  n->host.sin_port = htons(port);
  return inet_pton(AF_INET, host, &n->host.sin_addr) == 1 && url[used] == '/' ? url + used : NULL;
}

/// Method, URL and what else the request of this step has.
static void request_of(const struct node *n, const char **method, char *url, char *fields, char *body) {
  static const char *const stages[] = {"root", "userspace", "ready"};
  *method = n->step == ENROL || n->step >= ROOT ? "POST" : "GET";
  *fields = *body = 0;
  if (n->step == SCRIPT) snprintf(url, 2 * URL_ROOM, "%s", n->script);
  else if (n->step == KERNEL) snprintf(url, 2 * URL_ROOM, "%s", n->kernel);
  else if (n->step == INITRD) snprintf(url, 2 * URL_ROOM, "%s", n->initrds[n->initrd]);
  else if (n->step == ENROL) {
    snprintf(url, 2 * URL_ROOM, "%s/enrol", n->base);
    sprintf(body, "mac %02x:%02x:%02x:%02x:%02x:%02x\nboot %s\n", n->mac[0], n->mac[1], n->mac[2], n->mac[3], n->mac[4], n->mac[5], n->boot);
  } else if (n->step == IMAGE) {
    snprintf(url, 2 * URL_ROOM, "%s%s", *n->image == '/' ? n->base : "", n->image);
    if (n->at) sprintf(fields, "Range: bytes=%lld-\r\n", n->at);
  } else {
    if (n->step == CONFIG) snprintf(url, 2 * URL_ROOM, "%s/boots/%s/config", n->base, n->boot);
    else snprintf(url, 2 * URL_ROOM, "%s/boots/%s/report?stage=%s&state=ok", n->base, n->boot, stages[n->step - ROOT]);
    sprintf(fields, "Authorization: Bearer %s\r\n", n->token);
  }
  if (**method == 'P') sprintf(fields + strlen(fields), "Content-Type: text/plain\r\nContent-Length: %zu\r\n", strlen(body));
}

static void begin_request(struct node *n) {
  const char *method;
  char url[2 * URL_ROOM], fields[256], body[256];
  request_of(n, &method, url, fields, body);
  errno = 0;
  if (!read_url(n, url)) return fail(n, "an URL that is no http://ADDRESS:PORT/PATH");
  if (!open_socket(n, SOCK_STREAM, EPOLLOUT)) return;
  n->in_body = CONNECT_BODY;
  n->due = now() + SILENCE_S;
  connect(n->fd, (struct sockaddr *)&n->host, sizeof n->host);
}

static void wait_for(struct node *n, double seconds) {
  close_socket(n);
  n->due = now() + seconds;
}

/// The connection broke, or the server was at fault: an iPXE starts over with its script, the initrd stage asks again, from where it was.
static void trouble(struct node *n, const char *why) {
  if (++n->tries > 20) return fail(n, why);
  counts.retries++;
  if (n->step == IMAGE && n->at) counts.resumed++;
  if (n->step == KERNEL || n->step == INITRD) n->step = SCRIPT, wait_for(n, IPXE_RETRY_S);
  else wait_for(n, 1);
}

static void send_request(struct node *n) {
  const char *method, *path;
  char url[2 * URL_ROOM], fields[256], body[256], all[2048], host[INET_ADDRSTRLEN];
  int error = 0;
  socklen_t length = sizeof error;
  getsockopt(n->fd, SOL_SOCKET, SO_ERROR, &error, &length);
  if ((errno = error)) return trouble(n, "connect");
  request_of(n, &method, url, fields, body);
  path = read_url(n, url);
  inet_ntop(AF_INET, &n->host.sin_addr, host, sizeof host);
  int size = snprintf(all, sizeof all, "%s %s HTTP/1.1\r\nHost: %s:%d\r\nUser-Agent: %s\r\nConnection: close\r\n%s\r\n%s", method, path, host, ntohs(n->host.sin_port), n->step < ENROL ? "iPXE/1.21.1" : "Wget", fields, body);
  if (send(n->fd, all, size, MSG_NOSIGNAL) != size) return trouble(n, "request not sent");
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)n->opened << 32 | (n - nodes)};
  epoll_ctl(loop, EPOLL_CTL_MOD, n->fd, &event);
  n->in_body = IN_HEAD;
  n->got = 0;
}

/// Copies the word behind `key` up to a space or the line's end; 0 when there is none.
static int word_after(const char *text, const char *key, char *to, size_t room) {
  const char *from = strstr(text, key);
  size_t length = from ? strcspn(from += strlen(key), " \r\n") : 0;
  if (!length || length >= room) return 0;
  memcpy(to, from, length);
  to[length] = 0;
  return 1;
}

/// The first URL of a line that begins with this command; `*at` moves on behind the line.
static int url_of(const char **at, const char *command, char *to) {
  for (const char *line = *at; line; line = (line = strchr(line, '\n')) ? line + 1 : NULL) {
    const char *url = strstr(line, "http://"), *end = strchr(line, '\n');
    if (strncmp(line, command, strlen(command)) || !url || !end || url > end) continue;
    *at = end + 1;
    return word_after(url - 1, "http://", to + 7, URL_ROOM - 7) && memcpy(to, "http://", 7);
  }
  return 0;
}

static void read_script(struct node *n, const char *script) {
  const char *at = script;
  if (strncmp(script, "#!ipxe", 6)) return fail(n, "a script that does not begin with #!ipxe");
  if (!url_of(&at, "kernel ", n->kernel)) {
    const char *sleep = strstr(script, "\nsleep ");
    if (!sleep || !strstr(script, "\nchain ")) return fail_said(n, "a script that boots nothing and does not wait either", script);
    counts.holds++;
    return wait_for(n, atoi(sleep + 7));
  }
  if (!word_after(script, " rackseed=", n->base, URL_ROOM) || !word_after(script, " rackseed.boot=", n->boot, sizeof n->boot)) return fail(n, "a command line that does not name the daemon and the boot");
  for (n->initrd = n->initrd_count = 0; n->initrd_count < MOST_INITRDS && url_of(&at, "initrd ", n->initrds[n->initrd_count]);) n->initrd_count++;
  enter(n, KERNEL);
}

static void read_config(struct node *n, const char *text) {
  char size[32];
  if (!word_after(text, "squashfs-url ", n->image, URL_ROOM) || !word_after(text, "squashfs-size ", size, sizeof size)) return fail(n, "config names no image");
  if (atoll(size) != image.size) return fail(n, "config tells another size of the image");
  enter(n, IMAGE);
}

/// The whole response is here.
static void answered(struct node *n, int status, const char *body) {
  if (n->step == SCRIPT) return read_script(n, body);
  if (n->step == KERNEL) return enter(n, n->initrd_count ? INITRD : ENROL);
  if (n->step == INITRD && ++n->initrd < n->initrd_count) return begin_request(n);
  if (n->step == CONFIG) return read_config(n, body);
  if (n->step == ENROL && (status != 201 || !word_after(body, "token ", n->token, sizeof n->token))) return fail(n, "no token");
  enter(n, n->step + 1);
}

static void body_over(struct node *n, int status, const char *body) {
  close_socket(n);
  errno = 0;
  const struct content *content = expected(n);
  if (content && n->at != content->size) return fail(n, "not the file's length");
  if (content) n->at = 0;
  n->tries = 0;
  answered(n, status, body);
}

static void take_bytes(struct node *n, const uint8_t *bytes, long long length) {
  const struct content *content = expected(n);
  if (bytes && n->checks && memcmp(content->bytes + n->at, bytes, length)) return fail(n, "other bytes than the file's");
  n->at += length;
  n->left -= length;
  counts.bytes += length;
  n->due = now() + SILENCE_S;
  if (n->left == 0) body_over(n, 200, "");
}

static void take_head(struct node *n, const struct head *head) {
  const struct content *content = expected(n);
  const char *body = n->text + head->length;
  int rest = n->got - head->length, good = head->status == 200 || head->status == 201 || head->status == 204 || head->status == 206;
  errno = 0;
  if (head->status == 503 && head->retry_after >= 0 && n->step == IMAGE) {
    counts.held++;
    return wait_for(n, head->retry_after);
  }
  if (head->status >= 500 || head->status == 429) return trouble(n, "the server says that it is at fault");
  if (!good) return fail_said(n, "an answer that is none of success", n->text);
  if (!content) {
    // A short text: wait until all of it is here.
    if (head->content_length > TEXT_ROOM - head->length || (head->content_length < 0 && head->status != 204)) return fail(n, "a text without a usable length");
    if (rest >= head->content_length) body_over(n, head->status, body);
    return;
  }
  // Without a Range all of it comes, also where a part was asked for.
  if (head->status == 200) n->at = 0;
  n->left = content->size - n->at;
  if (head->content_length != n->left) return fail(n, "another Content-Length than the file's");
  n->in_body = IN_BODY;
  if (rest > 0) take_bytes(n, (const uint8_t *)body, rest);
}

static void on_http(struct node *n) {
  static uint8_t buffer[1 << 20];
  errno = 0;
  if (n->in_body == CONNECT_BODY) return send_request(n);
  if (n->in_body == IN_BODY) {
    ssize_t length = recv(n->fd, buffer, n->left < (long long)sizeof buffer ? n->left : (long long)sizeof buffer, n->checks ? 0 : MSG_TRUNC);
    if (length > 0) return take_bytes(n, n->checks ? buffer : NULL, length);
    return length < 0 && errno == EAGAIN ? (void)0 : trouble(n, "the connection was cut");
  }
  ssize_t length = recv(n->fd, n->text + n->got, TEXT_ROOM - n->got, 0);
  if (length < 0 && errno == EAGAIN) return;
  if (length <= 0) return trouble(n, "no whole answer");
  n->text[n->got += length] = 0;
  struct head head;
  int read = read_head(n->text, &head);
  if (read == 1) take_head(n, &head);
  else if (read < 0 || n->got == TEXT_ROOM) fail(n, "this is no HTTP");
}
