// What uses a boot-once up, and what does not.
import { describe, expect, it } from 'vitest';
import { nextOf, usesBootOnceUp, type SaidNext } from '../../src/boot/next.ts';
import { bootWith } from './boot-world.ts';

const boot = bootWith(['discover', 'script']);

describe('what a node does next', () => {
  it('is netboot, unless its YAML says otherwise, unless an operator does', () => {
    expect([nextOf({}, {}), nextOf(undefined, {}), nextOf({ next: 'local' }, {}), nextOf({ next: 'local' }, { next: 'boot-once' })]).toEqual(['netboot', 'netboot', 'local', 'boot-once']);
  });
});

describe('the ready of a boot', () => {
  it.each<[string, { next?: 'boot-once' }, SaidNext, boolean]>([
    ['uses up what an operator said while no boot had its system', {}, { next: 'boot-once' }, true],
    ['uses up what was said while an earlier boot ran', {}, { next: 'boot-once', nextAfter: 'another' }, true],
    ['leaves what was said while this one ran: it is of the system that shall be replaced', {}, { next: 'boot-once', nextAfter: boot.id }, false],
    ['leaves what the YAML says since an operator took his word back while this one ran', { next: 'boot-once' }, { nextAfter: boot.id }, false],
    ['uses up what the YAML says', { next: 'boot-once' }, {}, true],
    ['does so once: local was said then', { next: 'boot-once' }, { next: 'local' }, false],
    ['means nothing to a node that boots from us each time', {}, {}, false],
  ])('%s', (_what, node, said, uses) => {
    expect(usesBootOnceUp(boot, node, said)).toBe(uses);
  });
});
