// Admission to images: its rules one by one, and a model that watches any sequence of machines that ask, go on, break and vanish.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createAdmission, CUT_KEEP_MS, KEEP_LEAST_MS, KEEP_TIMES, LATE_MS, MOST_PASSED, MOST_STRANGERS, needsSlot, placeWords, RETRY_MOST_S, SOON_MS, STREAMS_OF_MACHINE, TELL_EVERY_MS, waitingPhrase, type Admission, type Asker, type Waiting } from '../../src/boot/admission.ts';
import { digestOfBytes } from '../../src/digest.ts';
import { bootSet } from './boot-world.ts';

const node = (name: string): Asker => ({ key: `node ${name}`, rank: 'node' });
const stranger = (ip: string): Asker => ({ key: `ip ${ip}`, rank: 'stranger' });

function waits(admission: Admission, asker: Asker, now: number): Waiting {
  const verdict = admission.ask(asker, now);
  if (verdict.kind !== 'waiting') throw new Error(`${asker.key} was admitted`);
  return verdict;
}

function ticketOf(admission: Admission, asker: Asker, now: number): string {
  const verdict = admission.ask(asker, now);
  if (verdict.kind !== 'admitted') throw new Error(`${asker.key} waits at place ${verdict.place}`);
  return verdict.ticket;
}

describe('a slot', () => {
  it('is there for as many machines as are allowed, and for no more', () => {
    const admission = createAdmission(2);
    expect(['a', 'b', 'c'].map((name) => admission.ask(node(name), 0).kind)).toEqual(['admitted', 'admitted', 'waiting']);
    expect(admission.figures(0)).toEqual({ streams: 2, waiting: 1 });
  });

  it('is the same one for a machine that comes again before its broken connection was noticed, and free with the last of its connections', () => {
    for (const late of [0, 1]) {
      const admission = createAdmission(1);
      const tickets = [ticketOf(admission, node('a'), 0), ticketOf(admission, node('a'), 1000)];
      expect(tickets[1]).not.toBe(tickets[0]);
      expect(admission.figures(1000).streams).toBe(1);
      admission.release(tickets[1 - late]!, late === 0 ? 'whole' : 'nothing', 2000);
      expect(admission.ask(node('b'), 3000).kind).toBe('waiting');
      admission.release(tickets[late]!, late === 0 ? 'cut' : 'whole', 4000);
      expect(admission.ask(node('b'), 5000).kind).toBe('admitted');
    }
  });

  it('has two streams at a time; a third one waits for one of them to end, and for nobody else', () => {
    const admission = createAdmission(1);
    const tickets = [ticketOf(admission, node('a'), 0), ticketOf(admission, node('a'), 0)];
    waits(admission, node('b'), 1);
    expect(admission.ask(node('a'), 2)).toEqual({ kind: 'waiting', place: 1, ownStreams: true, retryAfterS: expect.any(Number) as unknown, tell: false });
    // It is no place in the queue: that is b's.
    expect(waits(admission, node('b'), 3).place).toBe(1);
    expect(admission.figures(3)).toEqual({ streams: 1, waiting: 1 });
    admission.release(tickets[0]!, 'cut', 4);
    expect(admission.ask(node('a'), 5).kind).toBe('admitted');
    expect(waits(admission, node('a'), 6).ownStreams).toBe(true);
  });

  it('is given back once: a ticket that is returned twice, or that nobody gave, frees nothing', () => {
    const admission = createAdmission(1);
    const first = ticketOf(admission, node('a'), 0);
    admission.release(first, 'whole', 1000);
    ticketOf(admission, node('b'), 2000);
    admission.release(first, 'whole', 3000);
    admission.release('slot-99', 'whole', 3000);
    expect(admission.ask(node('c'), 4000).kind).toBe('waiting');
  });

  it('lasts as long as its stream, hours if need be', () => {
    const admission = createAdmission(1);
    const ticket = ticketOf(admission, node('a'), 0);
    for (const hours of [1, 10, 100]) expect(admission.ask(node('b'), hours * 3_600_000).kind).toBe('waiting');
    admission.release(ticket, 'whole', 100 * 3_600_000);
    expect(admission.ask(node('b'), 100 * 3_600_000 + 1).kind).toBe('admitted');
  });
});

describe('the queue', () => {
  it('is in the order of first asking, whoever of those who are about to ask comes first when a slot is free', () => {
    const admission = createAdmission(1);
    const ticket = ticketOf(admission, node('a'), 0);
    const told = ['b', 'c', 'd'].map((name) => waits(admission, node(name), 10));
    expect(told.map(({ place }) => place)).toEqual([1, 2, 3]);
    const due = 10 + told[0]!.retryAfterS * 1000;
    admission.release(ticket, 'whole', 1000);
    expect([waits(admission, node('d'), due - SOON_MS).place, waits(admission, node('c'), due + LATE_MS).place]).toEqual([3, 2]);
    expect(admission.ask(node('b'), due + LATE_MS).kind).toBe('admitted');
  });

  it('lends a free slot to who asks while those before it are still asleep', () => {
    const admission = createAdmission(1);
    const ticket = ticketOf(admission, node('a'), 0);
    const due = 10 + waits(admission, node('b'), 10).retryAfterS * 1000;
    admission.release(ticket, 'whole', 1000);
    expect(admission.ask(node('c'), due - SOON_MS - 1).kind).toBe('admitted');
    expect(waits(admission, node('b'), due).place).toBe(1);
  });

  it('gives the slot of one that is late to who asks, and keeps its place', () => {
    const admission = createAdmission(1);
    const ticket = ticketOf(admission, node('a'), 0);
    const due = waits(admission, node('b'), 0).retryAfterS * 1000;
    admission.release(ticket, 'whole', 1000);
    expect(admission.ask(node('c'), due + LATE_MS + 1).kind).toBe('admitted');
    expect([waits(admission, node('d'), due + LATE_MS + 2).place, waits(admission, node('b'), due + LATE_MS + 3).place]).toEqual([2, 1]);
  });

  it.each([1, 2])('of %i slots: passes nobody in its sleep more than so often', (most) => {
    const admission = createAdmission(most);
    let now = 0;
    // Streams of 100 s: each sleeps long.
    admission.release(ticketOf(admission, node('before'), now), 'whole', (now += 100_000));
    const tickets = Array.from({ length: most }, (_, i) => ticketOf(admission, node(`first${i}`), now));
    const due = now + waits(admission, node('unlucky'), now).retryAfterS * 1000;
    for (let turn = 0; turn <= MOST_PASSED; turn++) {
      admission.release(tickets.pop()!, 'whole', (now += 10));
      const verdict = admission.ask(node(`newcomer${turn}`), (now += 10));
      expect(verdict.kind).toBe(turn < MOST_PASSED ? 'admitted' : 'waiting');
      if (verdict.kind === 'admitted') tickets.push(verdict.ticket);
    }
    expect(now).toBeLessThan(due - SOON_MS);
    expect(admission.ask(node('unlucky'), due).kind).toBe('admitted');
  });

  it('of nodes lends nothing to strangers, however long the nodes sleep', () => {
    const admission = createAdmission(8);
    const tickets = Array.from({ length: 8 }, (_, i) => ticketOf(admission, node(`n${i}`), 0));
    waits(admission, node('late'), 1);
    admission.release(tickets[0]!, 'whole', 2);
    expect(waits(admission, stranger('10.0.0.1'), 3).place).toBe(2);
    expect(admission.ask(node('other'), 4).kind).toBe('admitted');
  });

  it('lets as many of its first ones in as slots are free', () => {
    const admission = createAdmission(2);
    const tickets = ['a', 'b'].map((name) => ticketOf(admission, node(name), 0));
    const due = Math.max(...['c', 'd', 'e'].map((name) => waits(admission, node(name), 10).retryAfterS * 1000));
    for (const ticket of tickets) admission.release(ticket, 'whole', 1000);
    expect(['e', 'd', 'c', 'e'].map((name) => admission.ask(node(name), due).kind)).toEqual(['waiting', 'admitted', 'admitted', 'waiting']);
  });

  it('keeps a place for thrice the Retry-After, and not longer', () => {
    const admission = createAdmission(1);
    const ticket = ticketOf(admission, node('a'), 0);
    const { retryAfterS } = waits(admission, node('b'), 0);
    const keptMs = Math.max(KEEP_TIMES * retryAfterS * 1000, KEEP_LEAST_MS);
    expect(waits(admission, node('c'), keptMs).place).toBe(2);
    expect(waits(admission, node('c'), keptMs + 1).place).toBe(1);
    expect(waits(admission, node('b'), keptMs + 2).place).toBe(2);
    admission.release(ticket, 'whole', keptMs + 3);
    expect(admission.ask(node('c'), keptMs + 4).kind).toBe('admitted');
  });

  it('puts a node whose connection was cut first, for as long as it takes to come again', () => {
    const admission = createAdmission(1);
    const ticket = ticketOf(admission, node('a'), 0);
    waits(admission, node('b'), 10);
    admission.release(ticket, 'cut', 1000);
    expect(waits(admission, node('b'), 1001).place).toBe(2);
    expect(waits(admission, node('b'), 1500).place).toBe(2);
    expect(admission.ask(node('a'), 2000).kind).toBe('admitted');
    const vanished = createAdmission(1);
    vanished.release(ticketOf(vanished, node('a'), 0), 'cut', 1000);
    expect(waits(vanished, node('b'), 1000 + CUT_KEEP_MS).place).toBe(2);
    expect(vanished.ask(node('b'), 1001 + CUT_KEEP_MS).kind).toBe('admitted');
  });

  it('serves nodes before strangers, and leaves strangers a quarter of the slots at most', () => {
    const admission = createAdmission(8);
    expect(['10.0.0.1', '10.0.0.2', '10.0.0.3'].map((ip) => admission.ask(stranger(ip), 0).kind)).toEqual(['admitted', 'admitted', 'waiting']);
    const nodes = Array.from({ length: 6 }, (_, i) => ticketOf(admission, node(`n${i}`), 1));
    expect(waits(admission, node('late'), 2).place).toBe(1);
    expect(waits(admission, stranger('10.0.0.3'), 3).place).toBe(2);
    for (const ticket of nodes.slice(0, 2)) admission.release(ticket, 'whole', 4);
    expect(waits(admission, stranger('10.0.0.3'), 5).place).toBe(2);
    expect(admission.ask(node('late'), 6).kind).toBe('admitted');
  });

  it('lets a stranger in where nobody else wants to, also with one slot only', () => {
    expect(createAdmission(1).ask(stranger('10.0.0.1'), 0).kind).toBe('admitted');
  });

  it('remembers so many strangers and no more; those beyond are told a place at its end', () => {
    const admission = createAdmission(1);
    ticketOf(admission, node('a'), 0);
    for (let i = 0; i < MOST_STRANGERS + 50; i++) waits(admission, stranger(`10.1.${i >> 8}.${i & 255}`), 1);
    expect(admission.figures(1)).toEqual({ streams: 1, waiting: MOST_STRANGERS });
    // Nor are they written down, each time that they ask.
    for (let i = 0; i < 3; i++) expect(waits(admission, stranger('10.9.9.9'), 2)).toMatchObject({ place: MOST_STRANGERS + 1, tell: false });
    expect(waits(admission, node('b'), 2).place).toBe(1);
  });
});

describe('what a machine that waits is told', () => {
  it('is no time while no stream has ended yet', () => {
    const admission = createAdmission(1);
    ticketOf(admission, node('a'), 0);
    const told = waits(admission, node('b'), 100);
    expect(told.etaS).toBeUndefined();
    expect([placeWords(told), waitingPhrase(told, told.retryAfterS)]).toEqual(['place 1', `place 1, again in ${told.retryAfterS} s`]);
  });

  it('is the time until its turn, from how long streams took, which run now and since when', () => {
    const admission = createAdmission(2);
    admission.release(ticketOf(admission, node('before'), 0), 'whole', 100_000);
    ticketOf(admission, node('a'), 100_000);
    ticketOf(admission, node('b'), 140_000);
    // At 160 s `a` has run for 60 of 100 s, `b` for 20 s; each slot then takes 100 s again.
    expect(['c', 'd', 'e', 'f', 'g'].map((name) => waits(admission, node(name), 160_000).etaS)).toEqual([40, 80, 140, 180, 240]);
    expect(placeWords(waits(admission, node('c'), 160_000))).toBe('place 1, about 40 s');
  });

  it('does not promise the end of a stream that is overdue', () => {
    const admission = createAdmission(1);
    admission.release(ticketOf(admission, node('before'), 0), 'whole', 100_000);
    ticketOf(admission, node('a'), 100_000);
    expect(waits(admission, node('b'), 900_000).etaS).toBe(10);
  });

  it.each([
    ['is the first stream, while there is no other', [10_000], 'whole', 10],
    ['follows streams that take longer than the first did', [10_000, ...Array.from({ length: 40 }, () => 30_000)], 'whole', 30],
    ['does not hear of one that is unlike the others', [...Array.from({ length: 20 }, () => 10_000), 18_000], 'whole', 11],
    ['does not count what was cut', [100, 100, 100], 'cut', undefined],
    ['does not count what was no stream at all', [100, 100, 100], 'nothing', undefined],
  ] as const)('as its measure %s', (_what, streams, how, expected) => {
    const admission = createAdmission(1);
    let at = 0;
    for (const ms of streams) {
      const ticket = ticketOf(admission, node('x'), at);
      admission.release(ticket, how, (at += ms));
    }
    ticketOf(admission, node('x'), at);
    expect(waits(admission, node('y'), at).etaS).toBe(expected);
  });

  it('is a Retry-After of 1 to 30 s, spread so that a thousand do not come back in one second', () => {
    const admission = createAdmission(256);
    const tickets = Array.from({ length: 256 }, (_, i) => ticketOf(admission, node(`n${i}`), 0));
    const seconds = (now: number) => Array.from({ length: 1000 }, (_, i) => waits(admission, node(`n${1000 + i}`), now).retryAfterS);
    const unknown = seconds(1);
    admission.release(tickets[0]!, 'whole', 9_000);
    ticketOf(admission, node('n1000'), 9_001);
    ticketOf(admission, node('n1000'), 9_002);
    const all = [unknown, Array.from({ length: 999 }, (_, i) => waits(admission, node(`n${1001 + i}`), 9_003).retryAfterS)];
    for (const one of all) expect(one.filter((s) => !Number.isInteger(s) || s < 1 || s > RETRY_MOST_S)).toEqual([]);
    const most = all.map((one) => Math.max(...one.map((s) => one.filter((other) => other === s).length)));
    // 5-10 s while nothing is known; then up to 30 s, by each one's own turn.
    expect(most[0]).toBeLessThan(300);
    expect(most[1]).toBeLessThan(150);
  });

  it('is written down at once and then once a minute', () => {
    const admission = createAdmission(1);
    ticketOf(admission, node('a'), 0);
    const told = Array.from({ length: 30 }, (_, i) => (waits(admission, node('b'), i * 5000).tell ? i * 5000 : -1)).filter((at) => at >= 0);
    expect(told).toEqual([0, TELL_EVERY_MS, 2 * TELL_EVERY_MS]);
  });

  it('ends with how long it waited; who did not wait is told nothing', () => {
    const admission = createAdmission(1);
    const first = admission.ask(node('a'), 0);
    expect(first).toEqual({ kind: 'admitted', ticket: expect.any(String) as unknown });
    waits(admission, node('b'), 1000);
    admission.release((first as { ticket: string }).ticket, 'whole', 2000);
    expect(admission.ask(node('b'), 9000)).toMatchObject({ kind: 'admitted', waitedMs: 8000 });
  });
});

describe('what needs a slot', () => {
  const other = { ...bootSet, image: { ...bootSet.image, kernel: { digest: digestOfBytes('other kernel'), size: 1 } } };
  it.each([
    ['a squashfs does', bootSet.image.squashfs.digest, true],
    ['a kernel does not: iPXE cannot wait', bootSet.image.kernel.digest, false],
    ['the kernel of another boot set does not', other.image.kernel.digest, false],
    ['an initrd does not', bootSet.image.initrds[0]!.digest, false],
    ['an artifact does not: curl in a post-boot step gives up soon', bootSet.artifacts['k0s']!.digest, false],
    ['a blob that no boot set names does', digestOfBytes('something'), true],
    ['a blob that was not named does', undefined, true],
  ])('%s', (_what, digest, needs) => {
    expect(needsSlot(digest, [bootSet, other])).toBe(needs);
  });
});

describe('any sequence of machines', () => {
  const MACHINES = 12;
  type Step = { readonly what: 'ask' | 'whole' | 'cut' | 'nothing' | 'pass'; readonly who: number; readonly ms: number };
  const steps = fc.array(
    fc.record<Step>({ what: fc.constantFrom('ask', 'ask', 'ask', 'whole', 'cut', 'nothing', 'pass'), who: fc.nat(MACHINES - 1), ms: fc.integer({ min: 1, max: 20_000 }) }),
    { minLength: 1, maxLength: 200 },
  );

  it('never has more streams than allowed, and nobody is passed while it is due by somebody who asked later', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4 }), steps, (most, run) => {
        const admission = createAdmission(most);
        let now = 0;
        const holding = new Map<number, string[]>();
        const done = new Set<number>();
        /** Who waits: when it asked first, until when its place is its own, and from when until when a free slot is. */
        const queue = new Map<number, { since: number; until: number; from: number; to: number }>();
        let asked = 0;
        for (const { what, who, ms } of run) {
          now += what === 'pass' ? ms : 1;
          for (const [key, { until }] of queue) if (until < now) queue.delete(key);
          const held = holding.get(who);
          if (what === 'ask') {
            const verdict = admission.ask(node(`m${who}`), now);
            const since = queue.get(who)?.since ?? Infinity;
            const ahead = [...queue.values()].filter((other) => other.since < since && other.to >= now);
            if (held && held.length >= STREAMS_OF_MACHINE) {
              expect(verdict).toMatchObject({ kind: 'waiting', ownStreams: true });
            } else if (verdict.kind === 'admitted') {
              if (!held) expect(holding.size + ahead.filter(({ from }) => from <= now).length).toBeLessThan(most);
              queue.delete(who);
              holding.set(who, [...(held ?? []), verdict.ticket]);
            } else {
              expect(held).toBeUndefined();
              expect(verdict.retryAfterS).toBeGreaterThanOrEqual(1);
              expect(verdict.place).toBe([...queue.values()].filter((other) => other.since < since).length + 1);
              // It is turned away only for slots that are taken, or belong to those before it who are not late.
              expect(holding.size + ahead.length).toBeGreaterThanOrEqual(most);
              const sleepMs = verdict.retryAfterS * 1000;
              queue.set(who, { since: Math.min(since, ++asked), until: now + Math.max(KEEP_TIMES * sleepMs, KEEP_LEAST_MS), from: now + sleepMs - SOON_MS, to: now + sleepMs + LATE_MS });
            }
          } else if (held && what !== 'pass') {
            // Connections end in any order.
            admission.release(held.splice(ms % held.length, 1)[0]!, what, now);
            if (what === 'whole') done.add(who);
            if (held.length === 0) {
              holding.delete(who);
              // Next, in the order in which they were cut: before all who never had a slot.
              if (what === 'cut' && !done.has(who)) queue.set(who, { since: ++asked - 1e6, until: now + CUT_KEEP_MS, from: now, to: now + CUT_KEEP_MS });
              done.delete(who);
            }
          }
          expect(holding.size).toBeLessThanOrEqual(most);
          expect(admission.figures(now).streams).toBe(holding.size);
        }
      }),
      { numRuns: 500 },
    );
  });

  it('lets everybody finish who asks again as told, however connections break on the way', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 3 }), fc.array(fc.record({ ms: fc.integer({ min: 1, max: 90_000 }), cuts: fc.nat(3), startAt: fc.nat(5000) }), { minLength: 1, maxLength: 25 }), (most, machines) => {
        const admission = createAdmission(most);
        const events = machines.map(({ startAt, cuts }, who) => ({ at: startAt, who, cutsLeft: cuts, ticket: '' }));
        const order: number[] = [];
        let turns = 0;
        while (events.length > 0) {
          expect(++turns).toBeLessThan(100_000);
          events.sort((a, b) => a.at - b.at);
          const event = events.shift()!;
          const { at, who } = event;
          if (event.ticket === '') {
            const verdict = admission.ask(node(`m${who}`), at);
            if (verdict.kind === 'waiting') events.push({ ...event, at: at + verdict.retryAfterS * 1000 });
            else {
              if (!order.includes(who)) order.push(who);
              events.push({ ...event, ticket: verdict.ticket, at: at + machines[who]!.ms });
            }
          } else if (event.cutsLeft > 0) {
            admission.release(event.ticket, 'cut', at);
            events.push({ ...event, ticket: '', cutsLeft: event.cutsLeft - 1, at: at + 2000 });
          } else admission.release(event.ticket, 'whole', at);
          expect(admission.figures(at).streams).toBeLessThanOrEqual(most);
        }
        expect(order).toHaveLength(machines.length);
        expect(admission.figures(1e9)).toEqual({ streams: 0, waiting: 0 });
      }),
      { numRuns: 100 },
    );
  });
});
