// The structure of the house: imports go down or sideways, never up, and there are no cycles. Each ban has its reason.
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { describe, expect, it } from 'vitest';

const SRC = new URL('../../src/', import.meta.url).pathname;

/** Highest first; a file may import from its own layer and from those below. The first pattern that fits a file counts. */
const LAYERS: readonly [layer: string, files: RegExp][] = [
  ['values', /^(addr|digest|errors)\.ts$/],
  ['codecs', /^(dhcp\/(packet|options|framing|fields|names|overload|option-(numbers|table|values))|tftp\/packet)\.ts$/],
  ['rules', /^(budget|boot-diff|boot-drift|generation-diff|plan|render|boot\/.*|dhcp\/lease-formats\/.*|dhcp\/(book|client|counters|inbox|lease|links|reply|rivals|subnet|transport)|http\/room|tftp\/(pieces|room|rto|terms|transfer|transfer-state)|postboot\/facts)\.ts$/],
  ['state', /^(booter|boot-ends|boot-quirks|discovered|drift|history|loaders|loader-(files|sets)|log|metrics|shipped|privileges|net\/.*|threads\/.*|config\/.*|store\/.*|postboot\/.*|images\/(manifest|spec(-[a-z]+)?))\.ts$/],
  ['servers', /^(dhcp|tftp|http)\/.*\.ts$/],
  ['parts', /^(daemon|daemon\/.*|lab\/.*|images\/.*|probe\/.*)\.ts$/],
  ['commands', /^commands\/.*\.ts$/],
  ['root', /^cli(-image)?\.ts$/],
];

const BANS: readonly [from: RegExp, to: RegExp, reason: string][] = [
  [/^dhcp\//, /^(tftp|http)\//, 'servers never import one another: each renders the same decision by itself'],
  [/^tftp\//, /^(dhcp|http)\//, 'servers never import one another: each renders the same decision by itself'],
  [/^http\//, /^(dhcp|tftp)\//, 'servers never import one another: each renders the same decision by itself'],
  [/^(?!store\/)/, /^better-sqlite3$/, 'only store/* knows SQL, so that a second engine fits'],
  [/^(budget\.ts|boot-diff|boot-drift|generation-diff|plan\.ts|render\.ts|boot\/|dhcp\/lease-formats\/|dhcp\/(book|client|counters|inbox|lease|links|reply|rivals|subnet|transport|packet|options|framing|fields|names|overload|option-(numbers|table|values))\.ts|http\/room\.ts|tftp\/(pieces|room|rto|terms|transfer|transfer-state|packet)\.ts|postboot\/facts)/, /^(node:(fs|net|dgram|child_process|http|timers|os)|fastify|pino|simple-git)/, 'rules and codecs are pure: no I/O'],
];

const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'));
const importsOf = new Map(files.map((file) => [file, readImports(file)]));

function readImports(file: string): { to: string; local: boolean }[] {
  const source = readFileSync(join(SRC, file), 'utf8');
  return [...source.matchAll(/^\s*(?:import|export)\b[^;'"]*?from\s+'([^']+)'|^import\s+'([^']+)'|\bimport\('([^']+)'\)/gm)].map((match) => {
    const name = (match[1] ?? match[2] ?? match[3])!;
    return name.startsWith('.') ? { to: relative(SRC, join(SRC, dirname(file), name)), local: true } : { to: name, local: false };
  });
}

const layerOf = (file: string): number => LAYERS.findIndex(([, pattern]) => pattern.test(file));

describe('layers', () => {
  it('every file has a layer', () => {
    expect(files.filter((file) => layerOf(file) < 0)).toEqual([]);
  });

  it('imports never go up', () => {
    const up = [...importsOf].flatMap(([file, imports]) => imports.filter(({ to, local }) => local && layerOf(to) > layerOf(file)).map(({ to }) => `${file} (${LAYERS[layerOf(file)]![0]}) imports ${to} (${LAYERS[layerOf(to)]![0]})`));
    expect(up).toEqual([]);
  });

  it.each(BANS)('%s never imports %s: %s', (from, to) => {
    const found = [...importsOf].flatMap(([file, imports]) => (from.test(file) ? imports.filter((one) => to.test(one.to)).map((one) => `${file} imports ${one.to}`) : []));
    expect(found).toEqual([]);
  });

  it('there are no cycles', () => {
    const done = new Set<string>();
    const walk = (file: string, path: readonly string[]): string[] => {
      if (path.includes(file)) return [[...path.slice(path.indexOf(file)), file].join(' -> ')];
      if (done.has(file)) return [];
      const found = (importsOf.get(file) ?? []).filter(({ local }) => local).flatMap(({ to }) => walk(to, [...path, file]));
      done.add(file);
      return found;
    };
    expect(files.flatMap((file) => walk(file, []))).toEqual([]);
  });

  it('rules and codecs ask no clock and no dice', () => {
    const pure = files.filter((file) => layerOf(file) <= 2);
    const impure = pure.filter((file) => /\bDate\.now\(|\bnew Date\(\)|\bMath\.random\(|\bperformance\.now\(|\brandomBytes\b/.test(readFileSync(join(SRC, file), 'utf8')));
    expect(impure).toEqual([]);
  });

  it('every file says in its first line what it is', () => {
    expect(files.filter((file) => !/^(#!.*\n)?\/\/ \S/.test(readFileSync(join(SRC, file), 'utf8')))).toEqual([]);
  });

  it('the commands alone end the process, through cli.ts', () => {
    expect(files.filter((file) => file !== 'cli.ts' && /\bprocess\.exit\(/.test(readFileSync(join(SRC, file), 'utf8')))).toEqual([]);
  });
});
