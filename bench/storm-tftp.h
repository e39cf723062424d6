// TFTP of the storm's ROMs (RFC 1350, 2347-2349, 7440): a BIOS goes block by block, an EDK2 asks for the size first and then for windows of 4.
#include "storm-node.h"

enum { RRQ = 1, DATA = 3, TFTP_ACK = 4, ERROR = 5, OACK = 6 };

static void send_tftp(struct node *n, const void *bytes, int length, int port) {
  n->host.sin_family = AF_INET;
  n->host.sin_port = htons(port);
  sendto(n->fd, bytes, length, 0, (struct sockaddr *)&n->host, sizeof n->host);
}

static void send_ack(struct node *n) {
  uint16_t packet[2] = {htons(TFTP_ACK), htons(n->block)};
  n->in_window = 0;
  n->acked = now();
  n->due = n->acked + 1;
  send_tftp(n, packet, 4, n->peer_port);
}

static void send_rrq(struct node *n) {
  char b[512] = {0, RRQ}, *p = b + 2;
  const char *words[] = {n->file, "octet", "tsize", "0", "blksize", n->uefi ? "1468" : "1456", n->step == TFTP && n->uefi ? "windowsize" : NULL, "4"};
  for (int i = 0; i < 8 && words[i]; i++) p = stpcpy(p, words[i]) + 1;
  n->due = now() + 1;
  send_tftp(n, b, p - b, 69);
}

static void begin_tftp(struct node *n) {
  if (!open_socket(n, SOCK_DGRAM, EPOLLIN)) return;
  n->peer_port = n->block = 0;
  n->block_size = 512;
  n->window = 1;
  send_rrq(n);
}

static void resend_tftp(struct node *n) {
  errno = 0;
  if (++n->tries > 10) return fail(n, "the TFTP server is silent");
  counts.tftp_resent++;
  if (n->peer_port) send_ack(n);
  else send_rrq(n);
}

/// The options that were granted; 0 when one of them is not as asked.
static int read_oack(struct node *n, char *p, char *end, long long size) {
  long long told = -1;
  while (p < end) {
    char *value = p + strlen(p) + 1;
    if (value >= end) return 0;
    if (!strcasecmp(p, "tsize")) told = atoll(value);
    else if (!strcasecmp(p, "blksize")) n->block_size = atoi(value);
    else if (!strcasecmp(p, "windowsize")) n->window = atoi(value);
    p = value + strlen(value) + 1;
  }
  return told == size && n->block_size >= 8 && n->block_size <= 1468 && n->window >= 1 && n->window <= 4;
}

static void take_tftp(struct node *n, char *b, int length, int port) {
  const struct content *loader = &loaders[n->uefi];
  int opcode = length < 4 ? 0 : b[1];
  if (n->peer_port && n->peer_port != port) return; // no transfer of ours
  b[length] = 0;
  errno = 0;
  if (opcode == ERROR) return fail_said(n, "TFTP error", b + 4);
  if (opcode == OACK && !n->peer_port) {
    n->peer_port = port;
    n->tries = 0;
    if (!read_oack(n, b + 2, b + length, loader->size)) return fail(n, "an OACK that is not what was asked for");
    if (n->step == TFTP_SIZE) {
      // RFC 2347: an option is refused with error 8; that is how EDK2 ends what it asked for the size only.
      send_tftp(n, "\0\5\0\10User aborted the transfer", 29, port);
      return enter(n, TFTP);
    }
    return send_ack(n);
  }
  if (opcode != DATA || !n->peer_port) return;
  uint16_t block = ntohs(*(uint16_t *)(b + 2));
  if (block != (uint16_t)(n->block + 1)) {
    // RFC 7440: what is in order is acknowledged; the rest of that window comes too late and asks for nothing more.
    if (now() - n->acked > 0.05) send_ack(n);
    return;
  }
  long long at = (long long)n->block * n->block_size; // loaders are far below 65,535 blocks
  if (at + length - 4 > loader->size || memcmp(loader->bytes + at, b + 4, length - 4)) return fail(n, "other bytes than the loader's");
  n->block = block;
  n->tries = 0;
  counts.bytes += length - 4;
  int last = length - 4 < n->block_size;
  if (last || ++n->in_window == n->window) send_ack(n);
  if (!last) return;
  if (at + length - 4 != loader->size) return fail(n, "the loader ended early");
  close_socket(n);
  enter(n, IPXE_DISCOVER);
}

static void drain_tftp(struct node *n) {
  char b[2048];
  struct sockaddr_in from;
  socklen_t room = sizeof from;
  for (ssize_t length; n->fd >= 0 && (n->step == TFTP || n->step == TFTP_SIZE) && (length = recvfrom(n->fd, b, sizeof b - 1, 0, (struct sockaddr *)&from, &room)) >= 0;) {
    uint32_t opened = n->opened;
    if (from.sin_addr.s_addr == n->host.sin_addr.s_addr) take_tftp(n, b, length, ntohs(from.sin_port));
    // It went on with another socket.
    if (n->opened != opened) return;
  }
}
