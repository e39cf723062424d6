// One TFTP transfer as a pure machine: tables of situations, each with the RFC that rules it.
import { describe, expect, test } from 'vitest';
import { begin, blockCount, GIVE_UP_BEFORE_FIRST_ACK_MS, GIVE_UP_MS, negotiate, RESENDS_BEFORE_FIRST_ACK, step, type Step, type TransferAction, type TransferEvent } from '../../src/tftp/transfer.ts';
import { asked } from './tftp-channel.ts';

const open = (size: number, options: Record<string, string> = {}, seed = 1) => begin(negotiate(size, asked(options)), 0, seed);
const ack = (block: number, at: number): TransferEvent => ({ kind: 'ack', block, at });
const timer = (at: number): TransferEvent => ({ kind: 'timer', at });
const sent = (actions: readonly TransferAction[]) => actions.flatMap((action) => (action.kind === 'timer' || action.kind === 'end' ? [] : [brief(action)]));
const ended = (actions: readonly TransferAction[]) => actions.find((action) => action.kind === 'end');

function brief(action: TransferAction): string {
  if (action.kind === 'blocks') return action.count === 1 ? `DATA ${action.first}` : `DATA ${action.first}-${action.first + action.count - 1}`;
  return action.kind === 'error' ? `ERROR ${action.code}` : action.kind.toUpperCase();
}

/** Lets every event come in turn and shows what was sent for each. */
function play(first: Step, events: readonly TransferEvent[]): { readonly last: Step; readonly log: string[] } {
  let last = first;
  const log = [sent(first.actions).join(' + ')];
  for (const event of events) {
    last = step(last.state, event);
    log.push(sent(last.actions).join(' + '));
  }
  return { last, log };
}

describe('the answer to a request', () => {
  test.each<[string, Record<string, string>, { blockSize?: number; windowSize?: number }, string]>([
    ['without options has none, and means blocks of 512 in lock-step (RFC 1350)', {}, {}, ''],
    ['grants blksize (RFC 2348)', { blksize: '1024' }, {}, 'blksize 1024'],
    ['clamps blksize to what Ethernet carries', { blksize: '65464' }, {}, 'blksize 1468'],
    ['clamps blksize to a narrow path', { blksize: '1432' }, { blockSize: 1400 }, 'blksize 1400'],
    ['clamps a blksize that RFC 2348 does not know', { blksize: '65535' }, { blockSize: 100_000 }, 'blksize 65464'],
    ['grants the smallest blksize', { blksize: '8' }, {}, 'blksize 8'],
    ['ignores a blksize below 8', { blksize: '7' }, {}, ''],
    ['ignores a blksize that is no number', { blksize: '1e3' }, {}, ''],
    ['ignores a negative blksize', { blksize: '-1' }, {}, ''],
    ['ignores an empty blksize', { blksize: '' }, {}, ''],
    ['tells the size (RFC 2349)', { tsize: '0' }, {}, 'tsize 2000'],
    ['returns a timeout as it came (RFC 2349)', { timeout: '6' }, {}, 'timeout 6'],
    ['ignores a timeout of 0', { timeout: '0' }, {}, ''],
    ["ignores a timeout over 255, such as node-tftp's 3000", { timeout: '3000' }, {}, ''],
    ['grants windowsize (RFC 7440)', { windowsize: '4' }, {}, 'windowsize 4'],
    ['clamps windowsize to 64', { windowsize: '65535' }, {}, 'windowsize 64'],
    ['clamps windowsize to what it is told', { windowsize: '64' }, { windowSize: 16 }, 'windowsize 16'],
    ['grants a windowsize of 1', { windowsize: '1' }, {}, 'windowsize 1'],
    ['ignores a windowsize of 0', { windowsize: '0' }, {}, ''],
    ['ignores a windowsize over 65535', { windowsize: '65536' }, {}, ''],
    ['ignores a windowsize that is no number', { windowsize: '4.5' }, {}, ''],
    ['leaves out options that it does not know (RFC 2347)', { multicast: '', tsize: '0' }, {}, 'tsize 2000'],
    ['grants several in the order of the request', { tsize: '0', windowsize: '4', blksize: '1432', timeout: '5' }, {}, 'tsize 2000 windowsize 4 blksize 1432 timeout 5'],
  ])('%s', (_name, options, most, oack) => {
    const terms = negotiate(2000, asked(options), most);
    expect([...terms.options].flat().join(' ')).toBe(oack);
    expect(terms.blockSize).toBe(Number(terms.options.get('blksize') ?? 512));
    expect(terms.windowSize).toBe(Number(terms.options.get('windowsize') ?? 1));
    expect(sent(begin(terms, 0, 1).actions)).toEqual(oack === '' ? ['DATA 1'] : ['OACK']);
  });
});

describe('the blocks of a file', () => {
  test.each<[string, number, number]>([
    ['are one empty one for an empty file', 0, 1],
    ['are one for one byte', 1, 1],
    ['are one for one byte less than a block', 511, 1],
    ['end with an empty one when the size is a multiple (RFC 1350 section 6)', 512, 2],
    ['end with an odd one', 513, 2],
    ['end with an empty one after many', 512 * 7, 8],
  ])('%s', (_name, size, count) => {
    expect(blockCount(negotiate(size, asked()))).toBe(count);
    const { last, log } = play(open(size), Array.from({ length: count }, (_, index) => ack(index + 1, index)));
    expect(log).toEqual([...Array.from({ length: count }, (_, index) => `DATA ${index + 1}`), '']);
    expect(ended(last.actions)).toEqual({ kind: 'end', outcome: 'complete' });
  });

  test('go on after 65535 while their ACKs begin at 0 again', () => {
    let current = step(open(8 * 70_000 + 3, { blksize: '8', windowsize: '10' }).state, ack(0, 0));
    const firsts: number[] = [];
    for (let block = 10; !current.state.ended; block = Math.min(block + 10, 70_001)) {
      const [burst] = current.actions;
      if (burst?.kind === 'blocks') firsts.push(burst.first);
      current = step(current.state, ack(block & 0xffff, 0));
    }
    expect(firsts).toEqual(Array.from({ length: 7001 }, (_, index) => 1 + 10 * index));
    expect(ended(current.actions)).toEqual({ kind: 'end', outcome: 'complete' });
    expect(current.state).toMatchObject({ blocksSent: 70_001, resent: 0 });
  });
});

describe('in lock-step', () => {
  test('an OACK is followed by data only after ACK 0 (RFC 2347)', () => {
    expect(play(open(600, { tsize: '0' }), [ack(1, 1), ack(65535, 1), ack(0, 2)]).log).toEqual(['OACK', '', '', 'DATA 1']);
  });

  test('a lost block is sent again by the timer, and only by it', () => {
    const first = open(600);
    const { deadlineAt } = first.state;
    expect(deadlineAt).toBeGreaterThanOrEqual(100);
    expect(deadlineAt).toBeLessThan(112.5);
    expect(play(first, [timer(deadlineAt), ack(1, 125), ack(2, 130)]).log).toEqual(['DATA 1', 'DATA 1', 'DATA 2', '']);
  });

  test('a timer that comes early asks to be set again and sends nothing', () => {
    const { state } = open(600);
    expect(step(state, timer(99.9)).actions).toEqual([{ kind: 'timer', atMs: state.deadlineAt }]);
  });

  test('a lost ACK costs one block sent again, whose ACKs then count once (RFC 1123 4.2.3.1)', () => {
    const { last, log } = play(open(1200), [timer(120), ack(1, 121), ack(1, 122), ack(1, 123), ack(2, 124), ack(2, 124), ack(3, 125)]);
    expect(log).toEqual(['DATA 1', 'DATA 1', 'DATA 2', '', '', 'DATA 3', '', '']);
    expect(ended(last.actions)).toEqual({ kind: 'end', outcome: 'complete' });
    expect(last.state).toMatchObject({ blocksSent: 4, resent: 1 });
  });

  test('an ACK from the future or the past moves nothing', () => {
    expect(play(open(1200), [ack(2, 1), ack(0, 1), ack(65535, 1)]).log).toEqual(['DATA 1', '', '', '']);
  });

  test('a request that comes again before the first ACK gets its answer again, later nothing', () => {
    expect(play(open(1200), [{ kind: 'asked-again', at: 50 }, ack(1, 60), { kind: 'asked-again', at: 70 }]).log).toEqual(['DATA 1', 'DATA 1', 'DATA 2', '']);
    expect(play(open(1200, { tsize: '0' }), [{ kind: 'asked-again', at: 50 }, ack(0, 60), { kind: 'asked-again', at: 70 }]).log).toEqual(['OACK', 'OACK', 'DATA 1', '']);
  });

  test('before the first ACK nothing leaves more than four times, however often the request comes again: its address may be forged', () => {
    for (const options of [{}, { tsize: '0' }, { windowsize: '16' }]) {
      const again = Array.from({ length: 1000 }, (_, i) => ({ kind: 'asked-again', at: i / 10 }) as const);
      const { log, last } = play(open(120_000, options), [...again, timer(101), timer(500), ...again.map(({ at }) => ({ kind: 'asked-again', at: at + 600 }) as const), timer(4_000)]);
      expect(log.filter((line) => line !== '')).toHaveLength(4);
      expect(ended(step(last.state, timer(GIVE_UP_BEFORE_FIRST_ACK_MS)).actions)).toMatchObject({ outcome: 'failed', why: 'the client never answered' });
    }
  });

  test('an ended transfer does nothing any more', () => {
    const { last } = play(open(1), [ack(1, 1)]);
    for (const event of [ack(1, 2), timer(1e9), { kind: 'asked-again', at: 3 }] as const) expect(step(last.state, event).actions).toEqual([]);
  });
});

describe('in windows (RFC 7440)', () => {
  /** 41 blocks, after ACK 0 and with a measured round trip of 1 ms. */
  const windows = (windowsize: string) => step(open(40 * 512, { windowsize }).state, ack(0, 1));
  /** Plays `events`, and then the timer when it is due. */
  const thenTimer = (from: Step, ...events: TransferEvent[]) => {
    const { last, log } = play(from, events);
    const due = step(last.state, timer(last.state.deadlineAt));
    return { log: [...log, sent(due.actions).join(' + ')], due, waited: last.state.deadlineAt - (events.at(-1)?.at ?? 1) };
  };

  test('each ACK of a whole window is answered by the next one, and the last one is as short as it is', () => {
    expect(play(windows('16'), [ack(16, 2), ack(32, 3), ack(41, 4)]).log).toEqual(['DATA 1-16', 'DATA 17-32', 'DATA 33-41', '']);
  });

  test('an ACK from inside sends what follows it, once nothing newer comes, in half a window and with a block that asks for its ACK', () => {
    const { log, waited } = thenTimer(windows('16'), ack(5, 2));
    expect(log).toEqual(['DATA 1-16', '', 'DATA 6-13 + DATA 15']);
    expect(waited).toBe(1);
  });

  test('the ACKs of one loss, one for each block behind it, restart the window once', () => {
    const echoes = Array.from({ length: 10 }, (_, index) => ack(5, 2 + index / 100));
    const { due, log } = thenTimer(windows('16'), ...echoes);
    expect(log).toEqual(['DATA 1-16', ...echoes.map(() => ''), 'DATA 6-13 + DATA 15']);
    const late = play(due, [...echoes.map((echo) => ({ ...echo, at: 3.2 })), ack(13, 4)]);
    expect(late.log.slice(1)).toEqual([...echoes.map(() => ''), 'DATA 14-22 + DATA 24']);
  });

  test('ACKs that follow one another restart nothing: blocks that the network doubles are acknowledged one by one', () => {
    const each = Array.from({ length: 16 }, (_, index) => ack(index + 1, 2 + index / 100));
    expect(play(windows('16'), each).log).toEqual(['DATA 1-16', ...Array(15).fill(''), 'DATA 17-32']);
  });

  test('an ACK of the window before moves nothing (RFC 1123 4.2.3.1)', () => {
    expect(play(windows('4'), [ack(4, 2), ack(4, 2.1), ack(3, 2.1), ack(0, 2.1), ack(9, 2.2), ack(8, 3)]).log).toEqual(['DATA 1-4', 'DATA 5-8', '', '', '', '', 'DATA 9-12']);
  });

  test('silence sends one block, the last of the window, which every client answers', () => {
    const { due, log } = thenTimer(windows('16'), ack(16, 2));
    expect(log).toEqual(['DATA 1-16', 'DATA 17-32', 'DATA 32']);
    expect(play(due, [ack(32, 30)]).log.at(-1)).toBe('DATA 33-41');
    expect(play(due, [ack(20, 30)]).log.at(-1)).toBe('DATA 21-28 + DATA 30');
    expect(play(due, [ack(16, 30)]).log.at(-1)).toBe('DATA 17-24 + DATA 26');
  });

  test('the known ACK once more has that question come sooner than silence would', () => {
    const silent = thenTimer(windows('16'), ack(16, 2)).waited;
    const { log, waited } = thenTimer(windows('16'), ack(16, 2), ack(16, 2.5));
    expect(log).toEqual(['DATA 1-16', 'DATA 17-32', '', 'DATA 32']);
    expect(silent).toBeGreaterThanOrEqual(20);
    expect(waited).toBeLessThan(silent / 2);
  });

  test('only silence after that question sends a whole window again', () => {
    const { due } = thenTimer(windows('16'), ack(16, 2));
    expect(thenTimer(due).log.at(-1)).toBe('DATA 17-32');
  });

  test('a client that answers a whole window, but nothing less, gets whole windows again', () => {
    const smaller = thenTimer(windows('16'), ack(5, 2)).due;
    const asked = thenTimer(smaller);
    const whole = thenTimer(asked.due);
    expect([...asked.log, whole.log.at(-1)]).toEqual(['DATA 6-13 + DATA 15', 'DATA 15', 'DATA 6-21']);
    expect(play(whole.due, [ack(21, 100)]).log.at(-1)).toBe('DATA 22-37');
  });

  test('a burst grows by one block with each that arrives, up to the window, and by the last few at once', () => {
    const { due } = thenTimer(windows('4'), ack(1, 2));
    expect(play(due, [ack(3, 4), ack(7, 5), ack(11, 6)]).log).toEqual(['DATA 2-3 + DATA 5', 'DATA 4-7', 'DATA 8-11', 'DATA 12-15']);
    expect(thenTimer(windows('64'), ack(8, 2)).log.at(-1)).toBe('DATA 9-41');
  });

  test('an ACK of blocks that left before the window was restarted counts', () => {
    const { due } = thenTimer(windows('16'), ack(5, 2));
    expect(play(due, [ack(16, 4)]).log.at(-1)).toBe('DATA 17-24 + DATA 26');
  });
});

describe('the client ends it', () => {
  const error = (code: number, message = ''): TransferEvent => ({ kind: 'error', code, message, at: 5 });
  test.each<[string, Record<string, string>, TransferEvent[], unknown]>([
    ['with error 8 after the OACK: it wanted the size', { tsize: '0' }, [error(8, 'User aborted')], { kind: 'end', outcome: 'aborted' }],
    ['with error 0 after the OACK: it wanted the size', { tsize: '0' }, [error(0, 'TFTP Aborted')], { kind: 'end', outcome: 'aborted' }],
    ['with another error after the OACK', { tsize: '0' }, [error(3, 'too big')], { kind: 'end', outcome: 'failed', why: 'the client sent error 3: too big' }],
    ['with error 0 in the middle of the data', {}, [ack(1, 1), error(0)], { kind: 'end', outcome: 'failed', why: 'the client sent error 0' }],
    ['with error 8 when no option was granted', {}, [error(8)], { kind: 'end', outcome: 'failed', why: 'the client sent error 8' }],
  ])('%s', (_name, options, events, end) => {
    const { last } = play(open(2000, options), events);
    expect(last.actions).toEqual([end]);
  });
});

/** Runs only timers until the transfer ends. */
function leaveAlone(from: Step): { readonly sends: string[]; readonly waits: number[]; readonly end: unknown; readonly at: number } {
  let current = from;
  let at = 0;
  const sends: string[] = [];
  const waits: number[] = [];
  while (!current.state.ended) {
    waits.push(current.state.deadlineAt - at);
    at = current.state.deadlineAt;
    current = step(current.state, timer(at));
    sends.push(...sent(current.actions));
  }
  return { sends, waits, end: ended(current.actions), at };
}

/** The waits are these, with up to an eighth of jitter on top; the client's turn is as long as it is. */
function expectWaits(waits: readonly number[], without: readonly number[]): void {
  expect(waits).toHaveLength(without.length);
  waits.forEach((wait, index) => {
    expect(wait).toBeGreaterThanOrEqual(without[index]! - 1e-9);
    expect(wait).toBeLessThanOrEqual(without[index]! * (without[index] === CLIENTS_TURN_MS ? 1 : 1.125) + 1e-9);
  });
}
const CLIENTS_TURN_MS = 5500;

describe('the timer', () => {
  test.each([{}, { tsize: '0', windowsize: '64' }])('resends three times at most to an address that never answered, and then lets go in silence (options %j)', (options) => {
    const { sends, waits, end, at } = leaveAlone(open(60_000, options));
    expect(sends).toEqual(Array(RESENDS_BEFORE_FIRST_ACK).fill('tsize' in options ? 'OACK' : 'DATA 1'));
    expectWaits(waits.slice(0, 3), [100, 200, 400]);
    expect(end).toEqual({ kind: 'end', outcome: 'failed', why: 'the client never answered' });
    expect(at).toBe(GIVE_UP_BEFORE_FIRST_ACK_MS);
  });

  test("doubles from the second silence in a row up to 400 ms (RFC 6298 5.5), after twelve leaves the client's own timer of 5 s its turn, and gives a peer that was there 20 s", () => {
    const { waits, sends, end, at } = leaveAlone(step(open(600).state, ack(1, 0)));
    expectWaits(waits.slice(0, -1), [20, 20, 40, 80, 160, 320, ...Array<number>(6).fill(400), CLIENTS_TURN_MS, CLIENTS_TURN_MS, CLIENTS_TURN_MS]);
    expect(sends.slice(0, -1)).toEqual(sends.slice(0, -1).map(() => 'DATA 2'));
    expect(sends.at(-1)).toBe('ERROR 0');
    expect(end).toEqual({ kind: 'end', outcome: 'failed', why: 'the client fell silent' });
    expect(at).toBe(GIVE_UP_MS);
  });

  test('on a slow path doubles up to four times what it was', () => {
    const { waits } = leaveAlone(step(open(600).state, ack(1, 100)));
    expectWaits(waits.slice(1, 6), [300, 600, 1200, 1200, 1200]);
  });

  test('in a silent window sends one block and a whole window in turn, then a block for a while, and no more than six windows in all', () => {
    const { sends } = leaveAlone(step(open(60_000, { windowsize: '64' }).state, ack(0, 0)));
    const [block, window] = ['DATA 64', 'DATA 1-64'];
    expect(sends.slice(0, -1)).toEqual([block, window, block, window, block, window, block, window, block, block, block, window, block, window, block]);
  });

  test('never waits much longer than the timeout that the client asked for (RFC 2349), but long enough for its own timer', () => {
    const { waits } = leaveAlone(step(open(600, { timeout: '1' }).state, ack(0, 0)));
    expect(Math.max(...waits)).toBe(1500);
  });

  test.each<[string, number, number]>([
    ['follows a fast path down to the floor of 20 ms', 1, 20],
    ['waits three round trips after the first one', 40, 120],
    ['follows a slow client up', 400, 1200],
  ])('%s (RFC 6298 section 2)', (_name, rtt, timeout) => {
    const { state } = step(open(2000).state, ack(1, rtt));
    expectWaits([state.deadlineAt - rtt], [timeout]);
  });

  test('measures a window from its first packet to the ACK of its last', () => {
    const { state } = play(open(60_000, { windowsize: '4' }), [ack(0, 1), ack(4, 31)]).last;
    expect(state.srttMs).toBeCloseTo(0.875 * 1 + 0.125 * 30, 9);
  });

  test('learns nothing from a block that was sent twice (Karn)', () => {
    expect(play(open(2000), [timer(120), ack(1, 121)]).last.state.srttMs).toBe(-1);
    expect(play(open(2000), [{ kind: 'asked-again', at: 50 }, ack(1, 51)]).last.state.srttMs).toBe(-1);
    const window = play(open(60_000, { windowsize: '4' }), [ack(0, 1), timer(200), ack(4, 201)]).last.state;
    expect(window.srttMs).toBe(1);
  });

  test('stays long once a path has become slower than it (Karn), and so stops sending each block twice', () => {
    let current = play(open(512 * 100), [ack(1, 1)]).last;
    let at = 1;
    for (let block = 2; !current.state.ended; block++) {
      const answerAt = at + 300;
      while (current.state.deadlineAt < answerAt) current = step(current.state, timer(current.state.deadlineAt));
      at = answerAt;
      current = step(current.state, ack(block, at));
    }
    expect(ended(current.actions)).toEqual({ kind: 'end', outcome: 'complete' });
    expect(current.state.resent).toBeLessThan(40);
  });

  test('never fires on a path with steady round trips, however long', () => {
    for (const rtt of [0.1, 19, 60, 400, 1500]) {
      let current = open(512 * 300);
      for (let block = 1; !current.state.ended; block++) {
        const at = block * rtt;
        if (block > 3) expect(current.state.deadlineAt).toBeGreaterThan(at);
        current = step(current.state, ack(block, at));
      }
    }
  });

  test('leaves a path whose round trips never varied 4 ms, a clock tick of RFC 6298, before it calls a block lost', () => {
    let current = open(512 * 100);
    for (let block = 1; block < 90; block++) current = step(current.state, ack(block, block * 60));
    expect(current.state.rttvarMs).toBeLessThan(0.01);
    expect(current.state.deadlineAt - 89 * 60).toBeGreaterThanOrEqual(64);
  });

  test('is set again only when it is due, not for every ACK', () => {
    let current = open(512 * 1000);
    let set = 0;
    for (let block = 1; !current.state.ended; block++) {
      current = step(current.state, ack(block, block / 10));
      set += current.actions.filter(({ kind }) => kind === 'timer').length;
    }
    expect(set).toBeLessThanOrEqual(10);
  });

  test('has its jitter from the seed alone', () => {
    const first = (seed: number) => open(600, {}, seed).state.deadlineAt;
    expect(first(7)).toBe(first(7));
    const many = Array.from({ length: 1000 }, (_, seed) => first(seed * 0x10001));
    expect(Math.min(...many)).toBeLessThan(101);
    expect(Math.max(...many)).toBeGreaterThan(111.5);
    expect(new Set(many).size).toBeGreaterThan(990);
  });

  test.each(['1', '16'])('duplicate ACKs do not keep a dead transfer alive, and bring less than two packets each (windowsize %s)', (windowsize) => {
    let current = play(open(20_000, { windowsize }), [ack(0, 0)]).last;
    let acks = 0;
    for (let at = 0; !current.state.ended && at < 60_000; at += 10) {
      current = step(current.state, ack(0, at));
      current = step(current.state, timer(at));
      acks++;
    }
    expect(ended(current.actions)).toMatchObject({ outcome: 'failed' });
    expect(acks).toBe(GIVE_UP_MS / 10 + 1);
    expect(current.state.blocksSent).toBeLessThan(windowsize === '1' ? 20 : 2 * acks);
  });
});
