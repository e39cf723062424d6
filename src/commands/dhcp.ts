// `rackseed dhcp status|resume`: what each link does, and going on after another DHCP server was in the way.
import type { DhcpLink } from '../http/dhcp.ts';
import { createClient, type ClientOptions } from './client.ts';
import { duration, render, type Column, type Format } from './output.ts';

interface Status {
  readonly links: readonly DhcpLink[];
  readonly counters: Readonly<Record<string, number>>;
}

const ago = (at: number | undefined) => (at === undefined ? undefined : duration(Date.now() - at));

const COLUMNS: readonly Column<DhcpLink>[] = [
  { title: 'INTERFACE', of: (link) => link.link },
  { title: 'MODE', of: (link) => link.mode },
  { title: 'STATE', of: (link) => link.state },
  { title: 'SINCE', of: (link) => ago(link.since) },
  { title: 'LOOKED', of: (link) => ago(link.probedAt) },
  { title: 'WHY', of: (link) => link.why },
  { title: 'PROBES', of: (link) => link.probes, wide: true },
  { title: 'OVERHEARD', of: (link) => link.overheard, wide: true },
  { title: 'FOREIGN OFFERS', of: (link) => link.offers, wide: true },
];

export async function dhcpStatus(options: ClientOptions & { readonly output: Format }): Promise<string> {
  const answer = await createClient(options).get<Status>('/api/dhcp');
  const links = render(options.output, answer, answer.links, COLUMNS);
  const counted = Object.entries(answer.counters).filter(([, count]) => count > 0);
  const isText = options.output === 'table' || options.output === 'wide';
  return isText ? `${links}\npackets: ${counted.map(([what, count]) => `${what} ${count}`).join(' · ') || 'none'}\n` : links;
}

/** Says which links go on; a link that was not stopped is no error. */
export async function dhcpResume(link: string | undefined, options: ClientOptions & { readonly output: Format }): Promise<string> {
  const query = link === undefined ? '' : `?link=${encodeURIComponent(link)}`;
  const answer = await createClient(options).post<Status & { readonly resumed: readonly string[] }>(`/api/dhcp/resume${query}`);
  if (options.output !== 'table' && options.output !== 'wide') return render(options.output, answer, [], COLUMNS);
  if (answer.resumed.length === 0) return `nothing to resume: ${link ?? 'no link'} is ${link === undefined ? 'stopped' : 'not stopped'}\n`;
  return answer.resumed.map((name) => `${name}: nodes are served again; dynamic addresses follow in 5 s unless another server answers (rackseed dhcp status)\n`).join('');
}
