// The API's part for DHCP: what each link does, and how an operator sets a stopped one going again.
import type { FastifyInstance } from 'fastify';

/** A card that we listen on. Times are milliseconds since 1970. */
export interface DhcpLink {
  readonly link: string;
  readonly mode: 'off' | 'proxy' | 'full';
  /** `suspended`: no new dynamic offers · `stopped`: no answers, because another DHCP server gives out addresses there. */
  readonly state: 'clear' | 'suspended' | 'stopped';
  /** One line, when it is not clear. */
  readonly why?: string;
  readonly since?: number;
  /** Full mode only: how often we looked for other servers, and when last. */
  readonly probes?: number;
  readonly probedAt?: number;
  /** REQUESTs of clients that named another server. */
  readonly overheard?: number;
  /** OFFERs of other servers. */
  readonly offers?: number;
}

export interface DhcpAdmin {
  status(): { readonly links: readonly DhcpLink[]; readonly counters: Readonly<Record<string, number>> };
  /** Answers the links that were stopped and go on now; all of them without `link`. REQUEST_INVALID for one that is not watched. */
  resume(link?: string): readonly string[];
}

export function dhcpRoutes(app: FastifyInstance, dhcp: DhcpAdmin): void {
  app.get('/api/dhcp', async () => dhcp.status());
  app.post<{ Querystring: { link?: string } }>('/api/dhcp/resume', async (request) => ({ resumed: dhcp.resume(request.query.link), ...dhcp.status() }));
}
