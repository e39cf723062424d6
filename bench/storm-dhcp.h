// DHCP of the storm's machines: a PXE ROM's exchange, and after it that of the iPXE which it loaded; all by broadcast on one card.
#include "storm-node.h"

enum { DISCOVER = 1, OFFER = 2, REQUEST = 3, ACK = 5, NAK = 6, XID = 0x53000000, DHCP_SIZE = 548 };

static int dhcp_socket;
static float *exchanges;      // how long each took, in milliseconds
static uint32_t exchange_count, exchange_room;

static uint8_t *option(uint8_t *p, int code, int length, const void *value) {
  *p++ = code;
  *p++ = length;
  memcpy(p, value, length);
  return p + length;
}

static int is_ipxe(const struct node *n) { return n->step == IPXE_DISCOVER || n->step == IPXE_REQUEST; }

/// As ROMs write it: PXE 2.1 section 2.2.1, and what iPXE adds.
static void send_dhcp(struct node *n) {
  static const uint8_t wants[] = {1, 3, 6, 7, 12, 15, 17, 26, 28, 43, 54, 60, 66, 67, 97, 119, 128, 129, 130, 131, 132, 133, 134, 135, 175, 203};
  static const uint8_t undi[] = {1, 2, 1};
  // Tags of iPXE's features.h, each with its version: PXE, HTTP, DNS, TFTP, and what it can start.
  static const uint8_t bios_features[] = {0x21, 1, 1, 0x13, 1, 1, 0x17, 1, 1, 0x11, 1, 1, 0x18, 1, 1, 0x22, 1, 1, 0x27, 1, 1};
  static const uint8_t uefi_features[] = {0x21, 1, 1, 0x13, 1, 1, 0x17, 1, 1, 0x11, 1, 1, 0x24, 1, 1, 0x27, 1, 1};
  uint8_t b[DHCP_SIZE] = {1, 1, 6}, *p, kind = n->step == ROM_DISCOVER || n->step == IPXE_DISCOVER ? DISCOVER : REQUEST, uuid[17] = {0, 'r', 'a', 'c', 'k', 's', 'e', 'e', 'd'};
  uint16_t largest = htons(1472), arch = htons(n->uefi ? 7 : 0);
  struct sockaddr_in everybody = {.sin_family = AF_INET, .sin_port = htons(67), .sin_addr = {INADDR_BROADCAST}};
  *(uint32_t *)(b + 4) = htonl(XID | n->index << 1 | is_ipxe(n));
  b[10] = 0x80;
  memcpy(b + 28, n->mac, 6);
  memcpy(b + 236, "\x63\x82\x53\x63", 4);
  memcpy(uuid + 11, n->mac, 6);
  p = option(b + 240, 53, 1, &kind);
  p = option(p, 57, 2, &largest);
  p = option(p, 93, 2, &arch);
  p = option(p, 94, 3, undi);
  p = option(p, 60, 32, n->uefi ? "PXEClient:Arch:00007:UNDI:003000" : "PXEClient:Arch:00000:UNDI:002001");
  p = option(p, 97, 17, uuid);
  p = option(p, 55, sizeof wants, wants);
  if (is_ipxe(n)) {
    p = option(p, 77, 4, "iPXE");
    p = n->uefi ? option(p, 175, sizeof uefi_features, uefi_features) : option(p, 175, sizeof bios_features, bios_features);
  }
  if (kind == REQUEST) {
    p = option(p, 50, 4, &n->ip);
    p = option(p, 54, 4, &n->server);
  }
  *p = 255;
  sendto(dhcp_socket, b, sizeof b, 0, (struct sockaddr *)&everybody, sizeof everybody);
  // PXE 2.1: 4, 8, 16, 32 s; iPXE begins with 1 s.
  n->due = now() + (is_ipxe(n) ? 1 : 4) * (double)(1 << (n->tries < 3 ? n->tries : 3));
}

static void resend_dhcp(struct node *n) {
  if (++n->tries > 6) return fail(n, "no DHCP server answers");
  counts.dhcp_resent++;
  send_dhcp(n);
}

static void begin_exchange(struct node *n) {
  n->asked = now();
  send_dhcp(n);
}

static void exchange_over(struct node *n, double at) {
  if (exchange_count == exchange_room) exchanges = realloc(exchanges, (exchange_room = exchange_room * 2 + 4096) * sizeof *exchanges);
  exchanges[exchange_count++] = (at - n->asked) * 1000;
}

/// The file's name, and whose it is: option 67 before the field, siaddr for the host.
static int read_boot_file(struct node *n, const uint8_t *b, const uint8_t *name, int length) {
  memcpy(&n->host.sin_addr, b + 20, 4);
  if (!name && b[108]) name = b + 108, length = strnlen((const char *)name, 128);
  if (!name || length >= URL_ROOM) return 0;
  memcpy(n->file, name, length);
  n->file[length] = 0;
  return 1;
}

static void take_dhcp(const uint8_t *b, int length) {
  if (length < 244 || b[0] != 2) return;
  uint32_t number = ntohl(*(uint32_t *)(b + 4)) - XID, index = (number >> 1) - first;
  if (number >= 1 << 24 || index >= count) return;
  struct node *n = &nodes[index];
  const uint8_t *p = b + 240, *end = b + length, *name = NULL;
  int type = 0, name_length = 0;
  if (memcmp(b + 28, n->mac, 6) || (number & 1) != (uint32_t)is_ipxe(n)) return;
  uint32_t server = 0;
  for (; p + 2 <= end && *p != 255 && p + 2 + p[1] <= end; p += *p ? 2 + p[1] : 1) {
    if (*p == 53) type = p[2];
    else if (*p == 54) memcpy(&server, p + 2, 4);
    else if (*p == 52) return fail(n, "an answer with option overload, which this client does not read");
    else if (*p == 67) name = p + 2, name_length = p[1];
  }
  int discovering = n->step == ROM_DISCOVER || n->step == IPXE_DISCOVER, requesting = n->step == ROM_REQUEST || n->step == IPXE_REQUEST;
  errno = 0;
  if (type == OFFER && discovering) {
    if (memcmp(b + 16, &n->ip, 4)) return fail(n, "offered another address than its own");
    n->server = server;
    n->tries = 0;
    n->step++;
    return send_dhcp(n);
  }
  if (type == NAK && requesting) return fail(n, "NAK");
  if (type != ACK || !requesting) return;
  exchange_over(n, now());
  if (!read_boot_file(n, b, name, name_length)) return fail(n, "an ACK without a boot file");
  if (n->step == ROM_REQUEST) return enter(n, n->uefi ? TFTP_SIZE : TFTP);
  if (strncmp(n->file, "http://", 7)) return fail(n, "iPXE was not sent to a script by HTTP");
  strcpy(n->script, n->file);
  enter(n, SCRIPT);
}

static void drain_dhcp(void) {
  uint8_t b[2048];
  for (ssize_t length; (length = recv(dhcp_socket, b, sizeof b, MSG_DONTWAIT)) > 0;) take_dhcp(b, length);
}
