// What we make of other DHCP servers on a link that we serve in full mode: step(state, event) -> state + actions. Pure.
import type { Ip4, Mac } from '../addr.ts';

/** How long a probe listens: dnsmasq, which pings an address before it offers it, answers after 3.0 s (measured). */
export const PROBE_MS = 5_000;
/** Without a reason. */
export const PROBE_EVERY_MS = 300_000;
/** With one. Everybody on the link can make up a reason, so this is a limit of what they can make us send. */
export const PROBE_AT_MOST_EVERY_MS = 60_000;
/** After one that could not be sent, which costs the link nothing. */
const BLIND_RETRY_MS = 5_000;
/** From so many false alarms in a row on, a sign in the minute after a probe suspends nothing by itself. */
const FALSE_ALARMS_BELIEVED = 2;

export type Standing =
  | { readonly kind: 'clear' }
  /** No new dynamic offers until a probe has ended. */
  | { readonly kind: 'suspended'; readonly why: string; readonly since: number }
  /** Another server answered: no answers at all until an operator resumes. `answering`: the last probe heard one. */
  | { readonly kind: 'stopped'; readonly server: Ip4; readonly mac?: Mac; readonly since: number; readonly answering: boolean };

/** Of one link. All times are milliseconds since 1970. */
export interface RivalState {
  readonly standing: Standing;
  readonly probing: boolean;
  /** When the last probe began. */
  readonly probedAt?: number;
  /** The last one could not be sent. */
  readonly blind: boolean;
  /** A probe was sent and has ended. */
  readonly looked: boolean;
  /** The server that a client named, which no probe has looked for yet. */
  readonly doubt?: Ip4;
  /** Probes in a row that were made because of a doubt, and heard nobody. */
  readonly falseAlarms: number;
}

export type RivalEvent =
  /** A client's REQUEST carries another server's id (option 54). Anybody can send one. */
  | { readonly kind: 'overheard'; readonly server: Ip4; readonly at: number }
  /** Another server offered an address to our probe. */
  | { readonly kind: 'offered'; readonly server: Ip4; readonly mac?: Mac; readonly at: number }
  /** A probe ended; no other server answered. */
  | { readonly kind: 'silence'; readonly at: number }
  /** A probe ended; nothing of it could be sent. */
  | { readonly kind: 'blind'; readonly at: number }
  /** Time passes: once a second. */
  | { readonly kind: 'tick'; readonly at: number }
  /** An operator says that the other server is gone. */
  | { readonly kind: 'resume'; readonly at: number };

export type RivalAction =
  /** Send DISCOVERs and listen for PROBE_MS: `offered` as soon as one was heard, else `silence` or `blind` at its end. */
  | { readonly kind: 'probe' }
  | { readonly kind: 'event'; readonly event: 'dhcp-rival-suspected' | 'dhcp-rival-found' | 'dhcp-resumed'; readonly detail: Readonly<Record<string, unknown>> }
  | { readonly kind: 'log'; readonly level: 'info' | 'warn' | 'error'; readonly message: string; readonly fields: Readonly<Record<string, unknown>> };

export interface Stepped {
  readonly state: RivalState;
  readonly actions: readonly RivalAction[];
}

export interface Permits {
  /** Nodes with an address of their own, and leases that run. */
  readonly reservations: boolean;
  /** New offers from a pool. */
  readonly dynamic: boolean;
}

const BOTH: Permits = { reservations: true, dynamic: true };
const PERMITS: Readonly<Record<Standing['kind'], Permits>> = { clear: BOTH, suspended: { reservations: true, dynamic: false }, stopped: { reservations: false, dynamic: false } };
const NOTHING: readonly RivalAction[] = [];
const CLEAR: Standing = { kind: 'clear' };

export const UNWATCHED: RivalState = { standing: CLEAR, probing: false, blind: false, looked: false, falseAlarms: 0 };

/** What may be answered on the link. Never allocates: it is asked for each packet. */
export function permits({ standing }: RivalState): Permits {
  return PERMITS[standing.kind];
}

/**
 * What forged REQUESTs can do at worst, however many: new dynamic offers wait 5 s for the first probe, then at most 60 s (until the end of
 * the next one, a minute after the first), and from then on 5 s of each minute. Nodes with an address of their own notice nothing. For that price a
 * server that appears is met at the first REQUEST that names it; in a storm of false alarms up to a minute later.
 */
export function step(state: RivalState, event: RivalEvent): Stepped {
  switch (event.kind) {
    case 'overheard':
      return overheard(state, event.server, event.at);
    case 'offered':
      return offered(state, event.server, event.mac, event.at);
    case 'silence':
      return silence(state, event.at);
    case 'blind':
      return blind(state, event.at);
    case 'tick':
      return isDue(state, event.at) ? probe(state, event.at) : unchanged(state);
    case 'resume':
      return resume(state, event.at);
  }
}

function overheard(state: RivalState, server: Ip4, at: number): Stepped {
  if (state.standing.kind === 'stopped' || state.doubt !== undefined) return unchanged(state);
  const doubted = { ...state, doubt: server };
  if (isDue(doubted, at)) return probe(doubted, at);
  // The next probe looks into it; what was found silent again and again is not believed before that.
  return state.probing || state.falseAlarms < FALSE_ALARMS_BELIEVED ? suspend(doubted, at) : { state: doubted, actions: NOTHING };
}

function offered(state: RivalState, server: Ip4, mac: Mac | undefined, at: number): Stepped {
  const { standing } = state;
  const looked = { ...withoutDoubt(state), probing: false, probedAt: state.probedAt ?? at, looked: true, blind: false };
  if (standing.kind === 'stopped') return { state: { ...looked, standing: { ...standing, answering: true } }, actions: NOTHING };
  const who = { server, ...(mac ? { mac } : {}) };
  return {
    state: { ...looked, standing: { kind: 'stopped', ...who, since: at, answering: true } },
    actions: [
      { kind: 'event', event: 'dhcp-rival-found', detail: who },
      { kind: 'log', level: 'error', message: 'dhcp: another server answers on this link: stopped until an operator resumes', fields: who },
    ],
  };
}

function silence(state: RivalState, at: number): Stepped {
  const { standing, doubt } = state;
  const next = { ...withoutDoubt(state), probing: false, probedAt: state.probedAt ?? at, blind: false, looked: true, falseAlarms: doubt === undefined ? 0 : state.falseAlarms + 1 };
  if (standing.kind === 'stopped') return { state: { ...next, standing: { ...standing, answering: false } }, actions: NOTHING };
  if (standing.kind === 'clear') return { state: next, actions: NOTHING };
  return { state: { ...next, standing: CLEAR }, actions: [{ kind: 'log', level: 'info', message: 'dhcp: no other server answered: dynamic offers go on', fields: { suspendedMs: at - standing.since } }] };
}

function blind(state: RivalState, at: number): Stepped {
  const next = { ...state, probing: false, blind: true, probedAt: at };
  // A card that is down now has nobody to harm; one that was never looked at may come up beside another server.
  return state.looked || state.standing.kind !== 'clear' ? { state: next, actions: NOTHING } : suspend(next, at, 'its card sends nothing, so nobody has looked for other servers yet');
}

function resume(state: RivalState, at: number): Stepped {
  const { standing } = state;
  if (standing.kind !== 'stopped') return unchanged(state);
  const next: RivalState = { ...state, falseAlarms: 0, standing: { kind: 'suspended', why: `resumed by an operator: one more look for ${standing.server}`, since: at } };
  const told: RivalAction[] = [
    { kind: 'event', event: 'dhcp-resumed', detail: { server: standing.server } },
    { kind: 'log', level: 'warn', message: 'dhcp: resumed by an operator', fields: { server: standing.server } },
  ];
  // Not limited to one a minute: nobody on the link can do this.
  return state.probing ? { state: next, actions: told } : { state: started(next, at), actions: [...told, { kind: 'probe' }] };
}

function isDue({ probing, probedAt, blind: wasBlind, doubt, standing }: RivalState, at: number): boolean {
  if (probing) return false;
  if (probedAt === undefined) return true;
  return at - probedAt >= (wasBlind ? BLIND_RETRY_MS : doubt !== undefined || standing.kind === 'suspended' ? PROBE_AT_MOST_EVERY_MS : PROBE_EVERY_MS);
}

function probe(state: RivalState, at: number): Stepped {
  const { state: next, actions } = state.doubt === undefined ? unchanged(state) : suspend(state, at);
  return { state: started(next, at), actions: [...actions, { kind: 'probe' }] };
}

function started(state: RivalState, at: number): RivalState {
  return { ...state, probing: true, probedAt: at };
}

function suspend(state: RivalState, at: number, why = `a client asked for a lease of ${state.doubt}`): Stepped {
  if (state.standing.kind !== 'clear') return unchanged(state);
  const fields = { why, ...(state.doubt ? { server: state.doubt } : {}) };
  const actions: RivalAction[] = [{ kind: 'log', level: 'warn', message: 'dhcp: no new dynamic offers until the link was looked at', fields }];
  // One event for a storm of them: the list of events has an end.
  if (state.falseAlarms === 0) actions.push({ kind: 'event', event: 'dhcp-rival-suspected', detail: fields });
  return { state: { ...state, standing: { kind: 'suspended', why, since: at } }, actions };
}

function withoutDoubt({ doubt: _settled, ...state }: RivalState): RivalState {
  return state;
}

function unchanged(state: RivalState): Stepped {
  return { state, actions: NOTHING };
}
