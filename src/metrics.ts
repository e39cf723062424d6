// What Prometheus reads: each metric is named here, once, with its unit; values are asked for when they are scraped. Never a MAC or a hostname as label.
import { Counter, Gauge, Registry } from 'prom-client';
import type { DriftFigures } from './drift.ts';

/** As the DHCP part tells it to people, too. */
export interface DhcpFigures {
  readonly links: readonly { readonly link: string; readonly mode: string; readonly state: string; readonly offers?: number; readonly overheard?: number }[];
  /** Datagrams since the start by what became of them. */
  readonly counters: Readonly<Record<string, number>>;
}

/** Of the HTTP server for machines, all threads together, since the start. */
export interface HttpFigures {
  /** By class of status, and by why connections were cut: closed sets. */
  readonly responses: Readonly<Record<string, number>>;
  readonly cuts: Readonly<Record<string, number>>;
  readonly sentBytes: number;
  readonly connections: number;
  readonly threadRestarts: number;
}

/** Of the TFTP server since its start; `active` is now. Each request ends in exactly one of complete, aborted, failed, refused, busy or stopped. */
export interface TftpFigures {
  readonly requests: number;
  readonly active: number;
  readonly complete: number;
  /** Asked for the size only: normal. */
  readonly aborted: number;
  readonly failed: number;
  /** By the decision, the name, the mode, or because it wanted to write. */
  readonly refused: number;
  /** Over one of the limits: transfers in all, of one address, by IPv6. */
  readonly busy: number;
  /** Replaced by a newer request of the same peer, ended by stop(), or given up for another peer: before its first ACK, or as the slowest. */
  readonly stopped: number;
  /** A request that a running transfer answers already. */
  readonly duplicates: number;
  readonly malformed: number;
  /** From outside of every subnet that we serve, whatever it was: not answered. */
  readonly outside: number;
  readonly wrongTid: number;
  /** Threads that ended without having been told to; their transfers have failed. */
  readonly threadDeaths: number;
  /** Bugs and broken stores that a datagram met; logged as errors. */
  readonly faults: number;
  readonly resent: number;
  /** Bytes of complete files. */
  readonly bytes: number;
}

export interface BlobFigures {
  /** Blobs found with wrong content since the start. */
  readonly rotten: number;
  readonly scrubbedBytes: number;
}

export interface Metrics {
  readonly contentType: string;
  /** The text format of Prometheus. */
  render(): Promise<string>;
}

const LINK_STATES = ['clear', 'suspended', 'stopped'] as const;

export function createMetrics(parts: { readonly http: () => HttpFigures; /** Undefined: there is no TFTP server. */ readonly tftp: () => TftpFigures | undefined; readonly dhcp: () => DhcpFigures; readonly leases: () => number; readonly blobs: () => BlobFigures; readonly images: () => { readonly streams: number; readonly waiting: number }; readonly heldNodes: () => Promise<number>; readonly drift: () => Promise<DriftFigures> }): Metrics {
  const registry = new Registry();
  const registers = [registry];
  new Counter({
    name: 'rackseed_dhcp_packets_total',
    help: 'DHCP datagrams by what became of them',
    labelNames: ['outcome'],
    registers,
    collect() {
      this.reset();
      for (const [outcome, count] of Object.entries(parts.dhcp().counters)) this.inc({ outcome }, count);
    },
  });
  new Gauge({
    name: 'rackseed_dhcp_link_state',
    help: '1 for the state that a link is in; suspended: no new dynamic offers, stopped: another DHCP server gives out addresses there',
    labelNames: ['link', 'mode', 'state'],
    registers,
    collect() {
      this.reset();
      for (const { link, mode, state } of parts.dhcp().links) for (const one of LINK_STATES) this.set({ link, mode, state: one }, Number(state === one));
    },
  });
  new Counter({
    name: 'rackseed_dhcp_foreign_offers_total',
    help: 'offers of other DHCP servers that answered our own questions',
    labelNames: ['link'],
    registers,
    collect() {
      this.reset();
      for (const { link, offers } of parts.dhcp().links) if (offers !== undefined) this.inc({ link }, offers);
    },
  });
  new Gauge({
    name: 'rackseed_dhcp_leases',
    help: 'addresses with a lease or in quarantine, ended leases that nobody got since included',
    registers,
    collect() {
      this.set(parts.leases());
    },
  });
  new Gauge({
    name: 'rackseed_image_streams',
    help: 'machines that fetch an image now',
    registers,
    collect() {
      this.set(parts.images().streams);
    },
  });
  new Gauge({
    name: 'rackseed_image_waiting',
    help: 'machines that wait for an image slot',
    registers,
    collect() {
      this.set(parts.images().waiting);
    },
  });
  new Gauge({
    name: 'rackseed_nodes_held',
    help: 'nodes that are held because their boots failed one after the other',
    registers,
    async collect() {
      this.set(await parts.heldNodes());
    },
  });
  new Gauge({
    name: 'rackseed_nodes_drift',
    help: 'nodes that run something else than what is assigned, by what is pending: reboot, steps (one node may count in both); unknown: never booted, or a boot under way',
    labelNames: ['pending'],
    registers,
    async collect() {
      const { rebootPending: reboot, stepsPending: steps, unknown } = await parts.drift();
      for (const [pending, count] of Object.entries({ reboot, steps, unknown })) this.set({ pending }, count);
    },
  });
  const labelled = (name: string, help: string, label: string, values: () => Readonly<Record<string, number>>) =>
    new Counter({
      name,
      help,
      labelNames: [label],
      registers,
      collect() {
        this.reset();
        for (const [value, count] of Object.entries(values())) this.inc({ [label]: value }, count);
      },
    });
  const single = (name: string, help: string, value: () => number) =>
    new Counter({
      name,
      help,
      registers,
      collect() {
        this.reset();
        this.inc(value());
      },
    });
  labelled('rackseed_http_responses_total', 'responses to machines by the class of their status', 'class', () => parts.http().responses);
  labelled('rackseed_http_cut_connections_total', 'connections of machines that were cut, by why: slow, stalled, crowded, full, malformed', 'why', () => parts.http().cuts);
  single('rackseed_http_sent_bytes_total', 'bytes of responses to machines', () => parts.http().sentBytes);
  single('rackseed_http_thread_restarts_total', 'HTTP threads that died and were started anew', () => parts.http().threadRestarts);
  new Gauge({
    name: 'rackseed_http_connections',
    help: 'open connections of machines',
    registers,
    collect() {
      this.set(parts.http().connections);
    },
  });
  const tftp = (pick: (figures: TftpFigures) => number) => () => {
    const figures = parts.tftp();
    return figures ? pick(figures) : 0;
  };
  labelled('rackseed_tftp_requests_total', 'TFTP requests by how they ended', 'outcome', () => {
    const figures = parts.tftp();
    if (!figures) return {};
    const { complete, aborted, failed, refused, busy, stopped } = figures;
    return { complete, aborted, failed, refused, busy, stopped };
  });
  labelled('rackseed_tftp_stray_datagrams_total', 'TFTP datagrams that began and advanced nothing: duplicate, malformed, outside, wrong_tid', 'kind', () => {
    const figures = parts.tftp();
    if (!figures) return {};
    const { duplicates: duplicate, malformed, outside, wrongTid: wrong_tid } = figures;
    return { duplicate, malformed, outside, wrong_tid };
  });
  single('rackseed_tftp_sent_bytes_total', 'bytes of files that were sent whole', tftp(({ bytes }) => bytes));
  single('rackseed_tftp_resent_blocks_total', 'blocks that left more than once', tftp(({ resent }) => resent));
  single('rackseed_tftp_thread_restarts_total', 'TFTP threads that died and were started anew', tftp(({ threadDeaths }) => threadDeaths));
  new Gauge({
    name: 'rackseed_tftp_transfers',
    help: 'requests that are being answered now',
    registers,
    collect() {
      this.set(tftp(({ active }) => active)());
    },
  });
  new Counter({
    name: 'rackseed_blobs_rotten_total',
    help: 'blobs whose content was found to be wrong, by a download or by the scrub',
    registers,
    collect() {
      this.reset();
      this.inc(parts.blobs().rotten);
    },
  });
  new Counter({
    name: 'rackseed_blobs_scrubbed_bytes_total',
    help: 'bytes of blobs that the scrub read again',
    registers,
    collect() {
      this.reset();
      this.inc(parts.blobs().scrubbedBytes);
    },
  });
  return { contentType: registry.contentType, render: () => registry.metrics() };
}
