// What may differ between the three servers, and why: the rows of docs/DIFFERENTIAL.md as data.
import type { Character, Step } from './exchanges.ts';
import { SERVERS, type ServerName } from './servers.ts';
import type { Answer } from './stage.ts';

export interface Difference {
  readonly step: Step;
  /** What the machine was to the servers before. */
  readonly standing: 'new' | 'leased' | 'released' | 'declined';
  readonly character: Character;
  readonly field: string;
  readonly values: Readonly<Record<ServerName, string>>;
  /** The play so far, for people. */
  readonly before: readonly string[];
  readonly index: number;
}

/** The fields in which the answers are not all equal; the message first, and nothing else when that differs. */
export function differencesIn(answers: Readonly<Record<ServerName, Answer>>): { readonly field: string; readonly values: Readonly<Record<ServerName, string>> }[] {
  const at = (field: string) => Object.fromEntries(SERVERS.map((name) => [name, answers[name][field] ?? '-'])) as Record<ServerName, string>;
  const differs = (field: string) => new Set(Object.values(at(field))).size > 1;
  if (differs('type')) return [{ field: 'type', values: at('type') }];
  return Object.keys(answers.rackseed).filter(differs).map((field) => ({ field, values: at(field) }));
}

export function tell({ step, standing, field, values }: Difference): string {
  return `${step.say} ${step.wish} of ${step.who === 0 ? 'a reserved' : 'a'} machine, ${standing}: ${field}: ${SERVERS.map((name) => `${name} ${values[name]}`).join(', ')}`;
}

export interface Explanation {
  readonly id: string;
  /** It takes a coincidence: a run may do without. */
  readonly rare?: true;
  explains(difference: Difference): boolean;
}

type Pattern = Readonly<Record<ServerName, string | readonly string[]>>;

function are(values: Difference['values'], pattern: Pattern): boolean {
  return SERVERS.every((name) => [pattern[name]].flat().includes(values[name]));
}

/** The machine sent a list of options (55), and this one is not in it. */
const unasked = ({ character: { asks } }: Difference, tag: number) => asks !== undefined && !asks.includes(tag);
const TAGS: Readonly<Record<string, number>> = { mask: 1, router: 3, dns: 6, hostName: 12, domain: 15, mtu: 26, broadcast: 28, ntp: 42 };

/** In the order of docs/DIFFERENTIAL.md, whose rows bear the same ids. */
export const EXPLANATIONS: readonly Explanation[] = [
  {
    id: 'renewal-without-record',
    explains: ({ step: { say, wish }, field, values }) => (say === 'renew' || say === 'rebind') && wish === 'free' && field === 'type' && are(values, { rackseed: 'ack', Kea: ['ack', 'nak'], dnsmasq: ['nak', 'silence'] }),
  },
  {
    id: 'rebind-of-anothers',
    explains: ({ step: { say, wish }, field, values }) => say === 'rebind' && wish === 'other' && field === 'type' && are(values, { rackseed: 'nak', Kea: 'nak', dnsmasq: 'silence' }),
  },
  {
    id: 'reboot-of-anothers',
    explains: ({ step: { say, wish }, standing, field, values }) =>
      say === 'init-reboot' && (wish === 'other' || wish === 'reserved' || (wish === 'own' && standing === 'declined')) && standing !== 'leased' && field === 'type' && are(values, { rackseed: 'nak', Kea: 'silence', dnsmasq: 'silence' }),
  },
  {
    id: 'reboot-in-another-network',
    explains: ({ step: { say, wish }, standing, field, values }) => say === 'init-reboot' && wish === 'foreign' && standing !== 'leased' && field === 'type' && are(values, { rackseed: 'nak', Kea: 'silence', dnsmasq: 'silence' }),
  },
  {
    id: 'reboot-outside-the-pool',
    explains: ({ step: { say, wish }, standing, field, values }) => say === 'init-reboot' && wish === 'outside' && standing === 'leased' && field === 'type' && are(values, { rackseed: 'silence', Kea: 'nak', dnsmasq: 'nak' }),
  },
  {
    id: 'reboot-after-release',
    rare: true,
    explains: ({ step: { say, wish }, standing, field, values }) => say === 'init-reboot' && wish === 'own' && standing === 'released' && field === 'type' && are(values, { rackseed: 'ack', Kea: 'silence', dnsmasq: 'silence' }),
  },
  {
    id: 'reboot-with-an-offer',
    rare: true,
    explains: ({ step: { say, wish }, field, values }) => say === 'init-reboot' && wish === 'free' && field === 'type' && are(values, { rackseed: 'ack', Kea: 'silence', dnsmasq: 'silence' }),
  },
  {
    id: 'decline-between-offer-and-request',
    rare: true,
    explains: ({ step: { say }, standing, field, values }) => say === 'select' && standing === 'declined' && field === 'type' && are(values, { rackseed: 'nak', Kea: 'nak', dnsmasq: 'ack' }),
  },
  {
    id: 'one-offer-for-two',
    rare: true,
    explains: ({ step: { say }, field, values }) => say === 'select' && field === 'type' && are(values, { rackseed: 'ack', Kea: 'ack', dnsmasq: 'nak' }),
  },
  {
    id: 'old-address-found-again',
    explains: ({ step: { say }, standing, field, values }) =>
      say === 'discover' && standing === 'released' && field === 'address' && are(values, { rackseed: ['the one it had', 'the one it was offered'], Kea: ['one of the pool', 'the one it wished'], dnsmasq: ['the one it had', 'the one it was offered', 'one of the pool', 'the one it wished'] }),
  },
  {
    id: 'offer-repeated',
    explains: ({ step: { say }, standing, field, values }) =>
      say === 'discover' && (standing === 'new' || standing === 'declined') && field === 'address' && are(values, { rackseed: 'the one it was offered', Kea: 'one of the pool', dnsmasq: ['the one it was offered', 'one of the pool'] }),
  },
  {
    id: 'declined-address-again',
    rare: true,
    explains: ({ step: { say }, standing, field, values }) => say === 'discover' && standing === 'declined' && field === 'address' && are(values, { rackseed: 'one of the pool', Kea: 'one of the pool', dnsmasq: 'the one it had' }),
  },
  { id: 'broadcast-to-all', explains: ({ field, values }) => field === 'to' && are(values, { rackseed: 'everybody', Kea: 'the address', dnsmasq: 'the address' }) },
  { id: 'siaddr', explains: ({ field, values }) => field === 'siaddr' && are(values, { rackseed: '-', Kea: '-', dnsmasq: 'its own' }) },
  { id: 'client-id', explains: ({ field, values }) => field === 'clientId' && are(values, { rackseed: 'echoed', Kea: 'echoed', dnsmasq: '-' }) },
  { id: 'times', explains: ({ field, values }) => (field === 'renewal' && are({ ...values, dnsmasq: '' }, { rackseed: '50 %', Kea: '50 %', dnsmasq: '' })) || (field === 'rebinding' && are({ ...values, dnsmasq: '' }, { rackseed: '87.5 %', Kea: '87.5 %', dnsmasq: '' })) },
  { id: 'router-unasked', explains: (one) => one.field === 'router' && unasked(one, TAGS.router!) && one.values.rackseed === one.values.Kea && one.values.dnsmasq === '-' },
  { id: 'dns-unasked', explains: (one) => (one.field === 'dns' || one.field === 'domain') && unasked(one, TAGS[one.field]!) && one.values.rackseed === '-' && one.values.Kea !== '-' && one.values.dnsmasq === '-' },
  { id: 'broadcast-address-unasked', explains: (one) => one.field === 'broadcast' && unasked(one, TAGS.broadcast!) && are(one.values, { rackseed: '-', Kea: '-', dnsmasq: '10.77.255.255' }) },
  { id: 'host-name-unasked', explains: (one) => one.field === 'hostName' && unasked(one, TAGS.hostName!) && are(one.values, { rackseed: '-', Kea: ['its own', 'the reservation\'s'], dnsmasq: '-' }) },
  { id: 'host-name-in-offer', explains: ({ step: { say }, field, values }) => field === 'hostName' && say === 'discover' && values.rackseed !== '-' && values.rackseed === values.Kea && values.dnsmasq === '-' },
  { id: 'no-list', explains: ({ character: { asks }, field, values }) => asks === undefined && ['mtu', 'ntp', 'broadcast'].includes(field) && values.rackseed !== '-' && values.rackseed === values.dnsmasq && values.Kea === '-' },
  { id: 'inform', explains: ({ step: { say }, field, values }) => say === 'inform' && (field === 'mask' || field === 'hostName') && values.rackseed !== '-' && values.rackseed === values.dnsmasq && values.Kea === '-' },
];

export function explain(difference: Difference): string | undefined {
  return EXPLANATIONS.find((one) => one.explains(difference))?.id;
}
