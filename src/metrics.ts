// What Prometheus reads: each metric is named here, once, with its unit; values are asked for when they are scraped. Never a MAC or a hostname as label.
import { Counter, Gauge, Registry } from 'prom-client';

/** As the DHCP part tells it to people, too. */
export interface DhcpFigures {
  readonly links: readonly { readonly link: string; readonly mode: string; readonly state: string; readonly offers?: number; readonly overheard?: number }[];
  /** Datagrams since the start by what became of them. */
  readonly counters: Readonly<Record<string, number>>;
}

export interface Metrics {
  readonly contentType: string;
  /** The text format of Prometheus. */
  render(): Promise<string>;
}

const LINK_STATES = ['clear', 'suspended', 'stopped'] as const;

export function createMetrics(parts: { readonly dhcp: () => DhcpFigures; readonly leases: () => number }): Metrics {
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
  return { contentType: registry.contentType, render: () => registry.metrics() };
}
