// The table of errors and docs/ERRORS.md are equal, both ways; so are the codes that scripts print.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ERRORS } from '../../src/errors.ts';

const docs = readFileSync(new URL('../../docs/ERRORS.md', import.meta.url), 'utf8');

describe('docs/ERRORS.md', () => {
  it('has a section for each code, and no other', () => {
    const sections = [...docs.matchAll(/^## ([A-Z_]+)$/gm)].map((match) => match[1]!);
    expect(sections.sort()).toEqual(Object.keys(ERRORS).sort());
  });

  it('says something under each', () => {
    for (const section of docs.split(/^## /m).slice(1)) expect(section.split('\n').slice(1).join(' ').trim().length, section.split('\n')[0]).toBeGreaterThan(30);
  });

  it('has each code beside its exit code', () => {
    const listed = [...docs.slice(docs.indexOf('## Exit codes')).matchAll(/^\| (\d+) \| (.*) \|$/gm)].flatMap(([, exit, codes]) => codes!.split(' ').map((code) => [code, Number(exit)]));
    expect(Object.fromEntries(listed)).toEqual(Object.fromEntries(Object.entries(ERRORS).map(([code, { exit }]) => [code, exit])));
  });

  it('lists the codes that the scripts print', () => {
    const script = readFileSync(new URL('../../src/boot/ipxe.ts', import.meta.url), 'utf8');
    const printed = new Set([...script.matchAll(/\bRS-[A-Z]+/g)].map(([code]) => code));
    const listed = new Set([...docs.matchAll(/^\| (RS-[A-Z]+) \|/gm)].map((match) => match[1]!));
    expect([...listed].sort()).toEqual([...printed].sort());
  });
});
