// A rack that powers on: very many machines go through DHCP, TFTP, script, kernel, initrd, session and image at once; prints one line of JSON.
// cc -O2 -o storm storm.c. One loop on epoll; each machine has an address of its own, which must be local here (`ip route add local 10.81.0.0/16 dev lo`).
#include <fcntl.h>
#include <getopt.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include "storm-node.h"
#include "storm-dhcp.h"
#include "storm-tftp.h"
#include "storm-http.h"

/// Of how many machines one compares all bytes that come by HTTP; the others count them, which costs the server's processors less.
enum { CHECKS_EACH = 16 };

static double entered[FAILED + 1], entered_most[FAILED + 1]; // seconds spent before each step, by all machines and by the slowest

static void enter(struct node *n, enum step step) {
  double at = now(), took = at - n->began;
  n->step = step;
  n->tries = 0;
  n->due = 0;
  entered[step] += took;
  if (took > entered_most[step]) entered_most[step] = took;
  if (step == ROM_DISCOVER || step == IPXE_DISCOVER) begin_exchange(n);
  else if (step == TFTP_SIZE || step == TFTP) begin_tftp(n);
  else if (step == DONE) counts.done++;
  else n->initrd = 0, n->at = 0, begin_request(n);
}

static void on_timer(struct node *n) {
  n->due = 0;
  if (n->step == OFF) {
    n->began = now();
    enter(n, ROM_DISCOVER);
  } else if (n->step <= ROM_REQUEST || n->step == IPXE_DISCOVER || n->step == IPXE_REQUEST) resend_dhcp(n);
  else if (n->step <= TFTP) resend_tftp(n);
  else if (n->fd < 0) begin_request(n);
  else trouble(n, "not a byte for 30 s");
}

static struct content map_file(const char *name) {
  int fd = open(name, O_RDONLY);
  struct stat about;
  if (fd < 0 || fstat(fd, &about) < 0) die(name);
  return (struct content){mmap(NULL, about.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0), about.st_size};
}

static void open_dhcp(const char *card) {
  struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(68)};
  int yes = 1, room = 32 << 20;
  dhcp_socket = socket(AF_INET, SOCK_DGRAM, 0);
  setsockopt(dhcp_socket, SOL_SOCKET, SO_BROADCAST, &yes, sizeof yes);
  if (setsockopt(dhcp_socket, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) < 0) setsockopt(dhcp_socket, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  if (setsockopt(dhcp_socket, SOL_SOCKET, SO_BINDTODEVICE, card, strlen(card)) < 0 || bind(dhcp_socket, (struct sockaddr *)&own, sizeof own) < 0) die("storm: DHCP socket");
  epoll_ctl(loop, EPOLL_CTL_ADD, dhcp_socket, &(struct epoll_event){.events = EPOLLIN, .data.u64 = UINT64_MAX});
}

static int ascending(const void *a, const void *b) {
  return *(const float *)a < *(const float *)b ? -1 : *(const float *)a > *(const float *)b;
}

static void run(double within, double limit) {
  static struct epoll_event events[256];
  double start = now(), looked = 0;
  uint64_t seed = 88172645463325252u;
  for (uint32_t i = 0; i < count; i++) {
    // xorshift: when each is switched on, the same at every run.
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    nodes[i].due = start + within * (seed % 1000000) / 1e6;
  }
  for (double at = start; counts.done + counts.failed < count && at < start + limit; at = now()) {
    if (at - looked > 0.002) {
      looked = at;
      for (uint32_t i = 0; i < count; i++)
        if (nodes[i].due && nodes[i].due <= at) on_timer(&nodes[i]);
    }
    int happened = epoll_wait(loop, events, 256, 2);
    for (int i = 0; i < happened; i++) {
      if (events[i].data.u64 == UINT64_MAX) {
        drain_dhcp();
        continue;
      }
      struct node *n = &nodes[(uint32_t)events[i].data.u64];
      if (n->fd < 0 || n->opened != events[i].data.u64 >> 32) continue;
      if (n->step == TFTP || n->step == TFTP_SIZE) drain_tftp(n);
      else on_http(n);
    }
  }
  errno = 0;
  for (uint32_t i = 0; i < count; i++)
    if (nodes[i].step < DONE) fail(&nodes[i], "not up in time");
}

int main(int argc, char **argv) {
  const char *card = NULL, *files[5] = {0};
  double within = 1, limit = 300;
  struct option names[] = {{"card", 1, 0, 'c'}, {"count", 1, 0, 'n'}, {"first", 1, 0, 'f'}, {"within", 1, 0, 'w'}, {"limit", 1, 0, 'l'},
                           {"bios", 1, 0, 0}, {"uefi", 1, 0, 1}, {"kernel", 1, 0, 2}, {"initrd", 1, 0, 3}, {"image", 1, 0, 4}, {0}};
  for (int o; (o = getopt_long_only(argc, argv, "", names, NULL)) != -1;) {
    if (o < 5) files[o] = optarg;
    else if (o == 'c') card = optarg;
    else if (o == 'n') count = atoi(optarg);
    else if (o == 'f') first = atoi(optarg);
    else if (o == 'w') within = atof(optarg);
    else if (o == 'l') limit = atof(optarg);
    else return 64;
  }
  if (!card || count < 1 || !files[0] || !files[1] || !files[2] || !files[3] || !files[4]) return fprintf(stderr, "storm: --card NAME --bios FILE --uefi FILE --kernel FILE --initrd FILE --image FILE [--count N] [--first N] [--within S] [--limit S]\n"), 64;
  loaders[0] = map_file(files[0]), loaders[1] = map_file(files[1]), kernel = map_file(files[2]), initrd = map_file(files[3]), image = map_file(files[4]);
  struct rlimit open_files;
  getrlimit(RLIMIT_NOFILE, &open_files);
  open_files.rlim_cur = open_files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &open_files);
  loop = epoll_create1(0);
  open_dhcp(card);
  nodes = calloc(count, sizeof *nodes);
  for (uint32_t i = 0; i < count; i++) {
    uint32_t index = first + i;
    nodes[i] = (struct node){.index = index, .fd = -1, .uefi = index & 1, .checks = index % CHECKS_EACH == 0, .mac = {2, 0x53, 0, 0, index >> 8, index}};
    // As bench/storm.ts writes it into the profile.
    nodes[i].ip = htonl(0x0a510400 + (index / 250 << 8) + index % 250 + 1);
  }
  double start = now();
  run(within, limit);
  double took = now() - start;
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  qsort(exchanges, exchange_count, sizeof *exchanges, ascending);
  printf("{\"nodes\":%u,\"done\":%u,\"failed\":%u,\"seconds\":%.3f,\"bytes\":%llu,\"dhcpExchanges\":%u,\"dhcpP50Ms\":%.3f,\"dhcpP99Ms\":%.3f,\"dhcpMaxMs\":%.3f,\"dhcpResent\":%llu,\"tftpResent\":%llu,"
         "\"held\":%llu,\"resumed\":%llu,\"retries\":%llu,\"scriptHolds\":%llu,\"clientCpuSeconds\":%.3f,\"reached\":{",
         count, counts.done, counts.failed, took, (unsigned long long)counts.bytes, exchange_count, exchange_count ? exchanges[exchange_count / 2] : -1, exchange_count ? exchanges[(size_t)(0.99 * (exchange_count - 1) + 0.5)] : -1,
         exchange_count ? exchanges[exchange_count - 1] : -1, (unsigned long long)counts.dhcp_resent, (unsigned long long)counts.tftp_resent, (unsigned long long)counts.held, (unsigned long long)counts.resumed, (unsigned long long)counts.retries,
         (unsigned long long)counts.holds, usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
  // When each step was entered, after the machine was switched on: mean and slowest; a mean is one only where all came so far.
  for (int step = ROM_DISCOVER + 1, more = 0; step <= DONE; step++)
    if (entered_most[step]) printf("%s\"%s\":[%.3f,%.3f]", more++ ? "," : "", STEPS[step], entered[step] / count, entered_most[step]);
  printf("},\"reasons\":[");
  for (int i = 0; i < reason_count; i++) printf("%s\"%s\"", i ? "," : "", reasons[i]);
  printf("]}\n");
  return 0;
}
