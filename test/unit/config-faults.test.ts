// "Did you mean": near enough to be a slip, and silence when it is not.
import { describe, expect, test } from 'vitest';
import { nearest } from '../../src/config/faults.ts';

const KEYS = ['image', 'boot', 'cmdline', 'root', 'postBoot', 'artifacts', 'vars', 'nodes', 'ip', 'exit'];

describe('nearest', () => {
  test.each([
    ['a letter swapped with its neighbour', 'exti', 'exit'],
    ['a swap in a word of two', 'pi', 'ip'],
    ['a letter too many', 'imagee', 'image'],
    ['a letter that is missing', 'artfacts', 'artifacts'],
    ['another case', 'postboot', 'postBoot'],
    ['two slips in a long word', 'artfiactes', 'artifacts'],
    ['another word', 'frobnicate', undefined],
    ['a short word that is like nothing', 'foo', undefined],
    ['nothing', '', undefined],
  ])('%s: %j means %j', (_what, word, meant) => {
    expect(nearest(word, KEYS)).toBe(meant);
  });
});
