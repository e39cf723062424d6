// The rules for other DHCP servers on a link: what suspends, what stops, what goes on by itself, and how often we look.
import { describe, expect, it } from 'vitest';
import { permits, PROBE_MS, step, UNWATCHED, type RivalAction, type RivalEvent, type RivalState } from '../../src/dhcp/rivals.ts';

const RIVAL = '10.0.0.9';
const MAC = '52:54:00:00:00:99';
const S = 1000;

/** A time line in seconds; `states` after each event, `did` all actions but log lines, with their times. */
function play(events: readonly (readonly [second: number, event: 'overheard' | 'offered' | 'silence' | 'blind' | 'tick' | 'resume'])[], from: RivalState = UNWATCHED) {
  let state = from;
  const did: string[] = [];
  const states: string[] = [];
  for (const [second, kind] of events) {
    const at = second * S;
    const event: RivalEvent = kind === 'overheard' ? { kind, server: RIVAL, at } : kind === 'offered' ? { kind, server: RIVAL, mac: MAC, at } : { kind, at };
    const { state: next, actions } = step(state, event);
    state = next;
    did.push(...actions.filter((action) => action.kind !== 'log').map((action) => `${second} ${named(action)}`));
    states.push(state.standing.kind);
  }
  return { state, states, did };
}

const named = (action: RivalAction) => (action.kind === 'event' ? action.event : action.kind);
/** As after a preflight that heard nobody, at second 0. */
const LOOKED = step(UNWATCHED, { kind: 'silence', at: 0 }).state;

describe('what is permitted', () => {
  it.each([
    ['on a clear link, everything', LOOKED, { reservations: true, dynamic: true }],
    ['on a suspended link, only nodes with an address of their own', play([[100, 'overheard']], LOOKED).state, { reservations: true, dynamic: false }],
    ['on a stopped link, nothing', play([[100, 'offered']], LOOKED).state, { reservations: false, dynamic: false }],
  ])('%s', (_what, state, expected) => {
    expect(permits(state)).toEqual(expected);
  });
});

describe('step', () => {
  it.each<[what: string, events: Parameters<typeof play>[0], states: string[], did: string[]]>([
    ['a client that names another server suspends at once and starts a probe', [[100, 'overheard']], ['suspended'], ['100 dhcp-rival-suspected', '100 probe']],
    ['a silent probe clears it by itself', [[100, 'overheard'], [105, 'silence']], ['suspended', 'clear'], ['100 dhcp-rival-suspected', '100 probe']],
    ['an offer stops it, with an event', [[100, 'overheard'], [101, 'offered']], ['suspended', 'stopped'], ['100 dhcp-rival-suspected', '100 probe', '101 dhcp-rival-found']],
    ['a stopped link stays stopped, whatever is heard or not heard', [[100, 'offered'], [101, 'overheard'], [400, 'tick'], [405, 'silence'], [700, 'tick'], [702, 'offered']], Array.from({ length: 6 }, () => 'stopped'), ['100 dhcp-rival-found', '400 probe', '700 probe']],
    ['an operator resumes: one more look with nodes served, then all', [[100, 'offered'], [110, 'resume'], [115, 'silence']], ['stopped', 'suspended', 'clear'], ['100 dhcp-rival-found', '110 dhcp-resumed', '110 probe']],
    ['resumed too early, it is stopped again', [[100, 'offered'], [110, 'resume'], [111, 'offered']], ['stopped', 'suspended', 'stopped'], ['100 dhcp-rival-found', '110 dhcp-resumed', '110 probe', '111 dhcp-rival-found']],
    ['to resume a link that is not stopped does nothing', [[100, 'resume'], [101, 'overheard'], [102, 'resume']], ['clear', 'suspended', 'suspended'], ['101 dhcp-rival-suspected', '101 probe']],
    ['without a reason it looks every five minutes', [[1, 'tick'], [299, 'tick'], [300, 'tick'], [301, 'tick'], [305, 'silence'], [599, 'tick'], [600, 'tick']], Array.from({ length: 7 }, () => 'clear'), ['300 probe', '600 probe']],
    ['the look of every five minutes finds a server that no client named', [[300, 'tick'], [301, 'offered']], ['clear', 'stopped'], ['300 probe', '301 dhcp-rival-found']],
    ['a sign within a minute of the last look waits for the next one, and is suspended meanwhile', [[20, 'overheard'], [21, 'overheard'], [59, 'tick'], [60, 'tick'], [65, 'silence']], ['suspended', 'suspended', 'suspended', 'suspended', 'clear'], ['20 dhcp-rival-suspected', '60 probe']],
    ['a sign while it looks is settled by that very look', [[300, 'tick'], [301, 'overheard'], [305, 'silence']], ['clear', 'suspended', 'clear'], ['300 probe', '301 dhcp-rival-suspected']],
    ['a look that cannot be sent is tried again after 5 s, and clears nothing', [[100, 'overheard'], [100, 'blind'], [104, 'tick'], [105, 'tick'], [110, 'silence']], ['suspended', 'suspended', 'suspended', 'suspended', 'clear'], ['100 dhcp-rival-suspected', '100 probe', '105 probe']],
    ['a card that is down for the look of every five minutes suspends nothing', [[300, 'tick'], [300, 'blind'], [305, 'tick']], ['clear', 'clear', 'clear'], ['300 probe', '305 probe']],
  ])('%s', (_what, events, states, did) => {
    expect(play(events, LOOKED)).toMatchObject({ states, did });
  });

  it('a link that was never looked at, because its card is down, gives out no dynamic addresses', () => {
    expect(play([[0, 'blind'], [5, 'tick'], [10, 'silence']]).states).toEqual(['suspended', 'suspended', 'clear']);
  });

  it('the stopped state says who it was, and whether he still answers', () => {
    const { state } = play([[100, 'offered'], [400, 'tick'], [405, 'silence']], LOOKED);
    expect(state.standing).toEqual({ kind: 'stopped', server: RIVAL, mac: MAC, since: 100 * S, answering: false });
    expect(play([[700, 'tick'], [701, 'offered']], state).state.standing).toMatchObject({ answering: true, since: 100 * S });
  });

  it('what changes nothing answers the very same state', () => {
    const { state } = play([[100, 'overheard']], LOOKED);
    expect(step(state, { kind: 'overheard', server: RIVAL, at: 101 * S })).toEqual({ state, actions: [] });
    expect(step(state, { kind: 'overheard', server: RIVAL, at: 101 * S }).state).toBe(state);
  });
});

describe('REQUESTs that somebody makes up, ten a second for an hour', () => {
  const storm = () => {
    let state: RivalState = LOOKED;
    const probes: number[] = [];
    const events: string[] = [];
    const unserved: number[] = [];
    const waits: number[] = [];
    let suspendedSince: number | undefined;
    for (let at = 100 * S; at < 3700 * S; at += 100) {
      const happens: RivalEvent[] = [{ kind: 'overheard', server: `10.9.${at % 7}.${at % 251}`, at }];
      if (at % S === 0) happens.push({ kind: 'tick', at });
      if (probes.length > 0 && at === probes.at(-1)! + PROBE_MS) happens.unshift({ kind: 'silence', at });
      for (const event of happens) {
        const stepped = step(state, event);
        state = stepped.state;
        for (const action of stepped.actions) {
          if (action.kind === 'probe') probes.push(at);
          if (action.kind === 'event') events.push(action.event);
        }
        if (!permits(state).reservations) unserved.push(at);
        if (permits(state).dynamic && suspendedSince !== undefined) waits.push(at - suspendedSince);
        suspendedSince = permits(state).dynamic ? undefined : (suspendedSince ?? at);
      }
    }
    return { probes, events, unserved, waits };
  };

  it('never stop a node with an address of its own', () => {
    expect(storm().unserved).toEqual([]);
  });

  it('make us look at most once a minute', () => {
    const { probes } = storm();
    expect(Math.min(...probes.slice(1).map((at, i) => at - probes[i]!))).toBe(60 * S);
  });

  it('hold dynamic offers up for 5 s, once for a minute, and then for 5 s of each minute', () => {
    const { waits } = storm();
    expect(waits.slice(0, 4)).toEqual([5 * S, 60 * S, 5 * S, 5 * S]);
    expect(Math.max(...waits.slice(2))).toBe(5 * S);
    expect(waits.length).toBeGreaterThan(50);
  });

  it('make one event of it, not thousands', () => {
    expect(storm().events).toEqual(['dhcp-rival-suspected']);
  });

  it('are forgotten after a quiet look: the next sign is believed again', () => {
    const noisy: RivalState = { ...LOOKED, falseAlarms: 7 };
    expect(play([[20, 'overheard']], noisy).states).toEqual(['clear']);
    expect(play([[300, 'tick'], [305, 'silence'], [320, 'overheard']], noisy).states).toEqual(['clear', 'clear', 'suspended']);
  });
});
