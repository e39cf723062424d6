// What uses a boot-once up, and what does not.
import { describe, expect, it } from 'vitest';
import { nextOf, usesBootOnceUp, type SaidNext } from '../../src/boot/next.ts';
import { bootWith, NOW } from './boot-world.ts';

const boot = bootWith(['discover', 'script']);
const [, script] = boot.stages;

describe('what a node does next', () => {
  it('is netboot, unless its YAML says otherwise, unless an operator does', () => {
    expect([nextOf({}, {}), nextOf(undefined, {}), nextOf({ next: 'local' }, {}), nextOf({ next: 'local' }, { next: 'boot-once' })]).toEqual(['netboot', 'netboot', 'local', 'boot-once']);
  });
});

describe('the ready of a boot', () => {
  it.each<[string, { next?: 'boot-once' }, SaidNext, boolean]>([
    ['uses up what an operator said before its script', {}, { next: 'boot-once', nextAt: script!.firstAt }, true],
    ['leaves what was said after its script: it is of the system that shall be replaced', {}, { next: 'boot-once', nextAt: script!.firstAt + 1 }, false],
    ['uses up what the YAML says', { next: 'boot-once' }, {}, true],
    ['does so once: local was said then', { next: 'boot-once' }, { next: 'local', nextAt: NOW - 99_000 }, false],
    ['means nothing to a node that boots from us each time', {}, {}, false],
  ])('%s', (_what, node, said, uses) => {
    expect(usesBootOnceUp(boot, node, said)).toBe(uses);
  });

  it('counts from the start of a boot whose script nobody saw', () => {
    const early = bootWith(['discover']);
    expect([early.startedAt, early.startedAt + 1].map((nextAt) => usesBootOnceUp(early, {}, { next: 'boot-once', nextAt }))).toEqual([true, false]);
  });
});
