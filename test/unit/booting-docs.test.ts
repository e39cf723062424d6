// docs/BOOTING.md prints the table of evidence that the code has.
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { CHAINS, EVIDENCE, STAGES } from '../../src/boot/timeline.ts';

const docs = readFileSync(new URL('../../docs/BOOTING.md', import.meta.url), 'utf8');

it('stage, evidence and chains are the same in docs and code', () => {
  const table = docs.slice(docs.indexOf('| stage | evidence | chains |')).split('\n\n')[0]!.split('\n').slice(2);
  expect(table).toEqual(EVIDENCE.map(({ stage, evidence, chains }) => `| ${stage} | ${evidence} | ${chains === CHAINS ? 'all' : chains.join(', ')} |`));
});

it('every stage has its evidence', () => {
  expect(EVIDENCE.map(({ stage }) => stage)).toEqual([...STAGES, 'step:', 'ready']);
});
