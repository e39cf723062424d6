// Random valid exchanges against rackseed, Kea and dnsmasq: where their answers differ, docs/DIFFERENTIAL.md says why.
import { readFileSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { differencesIn, explain, EXPLANATIONS, tell, type Difference } from './differences.ts';
import { play, PLAYS_MOST, type Play } from './exchanges.ts';
import { SERVERS, startServers, type ServerName, type Servers } from './servers.ts';
import { openStage, type Answer } from './stage.ts';

const FULL = process.env.RACKSEED_FULL === '1';
const EXCHANGES = FULL ? 2_000 : 200;
const SEED = Number(process.env.DIFFERENTIAL_SEED ?? 20_261_122);
const AT_ONCE = 4;

let servers: Servers;

beforeAll(async () => {
  servers = await startServers();
}, 120_000);
afterAll(() => servers?.stop());

/** Plays until the answers part ways: from then on the servers know different things. Answers how many steps were compared. */
async function perform({ machines, steps }: Play, index: number, found: (difference: Difference) => void): Promise<number> {
  const stages = await Promise.all(SERVERS.map((name) => openStage(servers.segments[name], index, machines)));
  const before: string[] = [];
  let compared = 0;
  for (const step of steps) {
    if (!stages.every((stage) => stage.can(step))) continue;
    const standing = stages[0]!.standing(step.who);
    const answers = await Promise.all(stages.map((stage) => stage.take(step)));
    compared++;
    const differences = differencesIn(Object.fromEntries(SERVERS.map((name, i) => [name, answers[i]!])) as Record<ServerName, Answer>);
    for (const { field, values } of differences) found({ step, standing, character: machines[step.who], field, values, before: [...before], index });
    before.push(`${step.who} ${step.say} ${step.wish} -> ${answers[0]!['type']}`);
    if (differences.some(({ field }) => field === 'type' || field === 'address')) break;
  }
  return compared;
}

describe('docs/DIFFERENTIAL.md', () => {
  it('has a row for every explanation, and no other', () => {
    const rows = readFileSync(new URL('../../docs/DIFFERENTIAL.md', import.meta.url), 'utf8').split('\n').flatMap((line) => /^\| `([a-z0-9-]+)` \|/.exec(line)?.[1] ?? []);
    expect(rows).toEqual(EXPLANATIONS.map(({ id }) => id));
  });
});

describe('differential', () => {
  it(`${EXCHANGES} exchanges, from seed ${SEED} (DIFFERENTIAL_SEED): each difference is one that is explained`, { timeout: 1_800_000 }, async () => {
    const plays = fc.sample(play, { seed: SEED, numRuns: PLAYS_MOST });
    const used = new Map<string, number>();
    const unexplained = new Map<string, { count: number; first: Difference }>();
    let exchanges = 0;
    let next = 0;
    await Promise.all(
      Array.from({ length: AT_ONCE }, async () => {
        while (exchanges < EXCHANGES && next < plays.length) {
          const index = next++;
          const compared = await perform(plays[index]!, index, (difference) => {
            const id = explain(difference);
            if (id !== undefined) return used.set(id, (used.get(id) ?? 0) + 1);
            const key = tell(difference);
            const known = unexplained.get(key);
            if (known) known.count++;
            else unexplained.set(key, { count: 1, first: difference });
          });
          exchanges += compared;
          if (index % 50 === 49) await servers.forgetNeighbours();
        }
      }),
    );
    const counts = EXPLANATIONS.map(({ id }) => `${id} ${used.get(id) ?? 0}`);
    console.log(`differential: ${exchanges} exchanges in ${next} plays; differences: ${counts.join(', ')}`);
    const listed = [...unexplained].map(([key, { count, first }]) => `${count} x ${key}\n    play ${first.index}: ${first.before.join('; ')}; then ${first.step.who} ${first.step.say} ${first.step.wish}`);
    if (process.env.DIFFERENTIAL_OUT) writeFileSync(process.env.DIFFERENTIAL_OUT, listed.join('\n'));
    expect(listed).toEqual([]);
    expect(exchanges).toBeGreaterThanOrEqual(EXCHANGES);
    // An explanation that nothing needs is wrong, or the exchanges are not what they should be.
    if (FULL) expect(EXPLANATIONS.filter(({ id, rare }) => !rare && !used.has(id)).map(({ id }) => id)).toEqual([]);
  });
});
