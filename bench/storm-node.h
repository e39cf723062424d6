// One simulated machine of the storm: what it is, where it stands on its way up, and what all its protocols share.
#pragma once
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "http-head.h"
#include "clock.h"

/// In the order in which a machine goes through them.
enum step { OFF, ROM_DISCOVER, ROM_REQUEST, TFTP_SIZE, TFTP, IPXE_DISCOVER, IPXE_REQUEST, SCRIPT, KERNEL, INITRD, ENROL, CONFIG, IMAGE, ROOT, USERSPACE, READY, DONE, FAILED };
static const char *const STEPS[] = {"off", "rom discover", "rom request", "tftp size", "tftp", "ipxe discover", "ipxe request", "script", "kernel", "initrd", "enrol", "config", "image", "root", "userspace", "ready", "done", "failed"};

enum { TEXT_ROOM = 8192, URL_ROOM = 256, MOST_INITRDS = 4 };

/// A file as it must arrive.
struct content { const uint8_t *bytes; long long size; };

struct node {
  uint32_t index, ip;       // ip in network order
  uint8_t mac[6];
  int uefi;                 // else BIOS: another loader, fetched in another way
  int checks;               // compares every byte that it gets by HTTP, too
  enum step step;
  double began, due;        // due: when its timer ends; 0: none
  int tries;                // of the same packet, or of the same request
  int fd;                   // its one socket: TFTP or HTTP; -1: none
  uint32_t opened;          // how many it had, so that an event of an old one is known
  // DHCP
  uint32_t server;          // option 54
  double asked;             // when the exchange began
  // TFTP
  uint16_t peer_port, block; // block: the last one in order
  int block_size, window, in_window;
  double acked;
  char file[URL_ROOM];
  // HTTP
  int in_body, got;
  long long left, at;       // of the body: still to come, and where in the content it is
  struct sockaddr_in host;
  char text[TEXT_ROOM + 1]; // the head, and a short body after it
  char base[URL_ROOM], kernel[URL_ROOM], initrds[MOST_INITRDS][URL_ROOM], image[URL_ROOM], script[URL_ROOM];
  int initrd, initrd_count;
  char boot[64], token[80];
};

static struct node *nodes;
static uint32_t count = 1000, first;
static int loop;
static struct { uint64_t dhcp_resent, tftp_resent, held, resumed, holds, retries, bytes; uint32_t done, failed; } counts;
static struct content loaders[2], kernel, initrd, image; // loaders: BIOS, UEFI

static void close_socket(struct node *n) {
  if (n->fd >= 0) close(n->fd);
  n->fd = -1;
}

static char reasons[8][300];
static int reason_count;

/// What the server said, if anything, belongs to the reason.
static void fail_said(struct node *n, const char *why, const char *said) {
  // The first of them are told; they mostly have one reason.
  if (reason_count < 8) {
    char *reason = reasons[reason_count++];
    snprintf(reason, sizeof reasons[0], "node %u at %s: %s%s%s%s%.120s", n->index, STEPS[n->step], why, errno ? ": " : "", errno ? strerror(errno) : "", *said ? ": " : "", said);
    // It becomes a JSON string.
    for (; *reason; reason++)
      if (*reason < ' ' || *reason > '~' || *reason == '"' || *reason == '\\') *reason = '?';
  }
  counts.failed++;
  close_socket(n);
  n->step = FAILED;
  n->due = 0;
}

static void fail(struct node *n, const char *why) { fail_said(n, why, ""); }

/// A socket of this kind at the node's own address, in the loop.
static int open_socket(struct node *n, int type, uint32_t events) {
  struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr = {n->ip}};
  int yes = 1;
  close_socket(n);
  n->fd = socket(AF_INET, type | SOCK_NONBLOCK, 0);
  if (type == SOCK_STREAM) setsockopt(n->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
  struct epoll_event event = {.events = events, .data.u64 = (uint64_t)++n->opened << 32 | (n - nodes)};
  if (n->fd >= 0 && bind(n->fd, (struct sockaddr *)&own, sizeof own) == 0 && epoll_ctl(loop, EPOLL_CTL_ADD, n->fd, &event) == 0) return 1;
  fail(n, "no socket");
  return 0;
}

static void enter(struct node *n, enum step step);
