// From a YAML document and a schema's complaints to faults with file, line, column and a "did you mean".
import { isMap, isPair, type Document, type LineCounter, type Node as YamlNode, type Pair } from 'yaml';
import type { z } from 'zod';
import type { Fault } from '../errors.ts';

export type Path = readonly PropertyKey[];

/** Syntax errors of the YAML itself. */
export function yamlFaults(document: Document.Parsed, file: string): Fault[] {
  return document.errors.map((error) => ({
    file,
    line: error.linePos?.[0].line ?? 1,
    column: error.linePos?.[0].col ?? 1,
    message: error.message.split('\n')[0]!.replace(/ at line \d+, column \d+:?$/, ''),
  }));
}

/** The place of a value, or of its key with `key: true`; the nearest existing ancestor when the path leads nowhere. */
export function placeOf(document: Document.Parsed, lines: LineCounter, path: Path, options?: { readonly key?: boolean }): { line: number; column: number } {
  let node: unknown = document.contents;
  let place: YamlNode | undefined = document.contents ?? undefined;
  for (const [index, step] of path.entries()) {
    const last = index === path.length - 1;
    if (isMap(node)) {
      const pair = node.items.find((item) => isPair(item) && keyText(item) === String(step));
      if (!pair) break;
      place = ((last && options?.key) || pair.value === null ? pair.key : pair.value) as YamlNode;
      node = pair.value;
    } else {
      const items: unknown = (node as { items?: unknown } | undefined)?.items;
      const item: unknown = Array.isArray(items) ? (items as unknown[])[Number(step)] : undefined;
      if (item === undefined) break;
      place = item as YamlNode;
      node = item;
    }
  }
  const at = lines.linePos(place?.range?.[0] ?? 0);
  return { line: Math.max(1, at.line), column: Math.max(1, at.col) };
}

/** The complaints of a schema as faults; unknown keys point at the key and say which known one is near. */
export function zodFaults(error: z.ZodError, document: Document.Parsed, lines: LineCounter, file: string, knownKeys: (path: Path) => readonly string[]): Fault[] {
  return error.issues.flatMap((issue): Fault[] => {
    if (issue.code === 'unrecognized_keys') {
      return issue.keys.map((key) => {
        const near = nearest(key, knownKeys(issue.path));
        const hint = near ? { hint: `did you mean ${near}?` } : {};
        return { file, ...placeOf(document, lines, [...issue.path, key], { key: true }), message: `unknown key ${key}`, ...hint };
      });
    }
    const where = issue.path.length > 0 ? `${issue.path.join('.')}: ` : '';
    return [{ file, ...placeOf(document, lines, issue.path), message: `${where}${issue.message}` }];
  });
}

/** The keys that a schema knows at a path, so that a wrong one can be answered with a near one. */
export function knownKeys(schema: z.ZodType, path: Path): readonly string[] {
  let at: unknown = schema;
  for (const step of path) at = descend(unwrap(at), step);
  const shape = (unwrap(at) as { shape?: Record<string, unknown> } | undefined)?.shape;
  return shape ? Object.keys(shape) : [];
}

function unwrap(schema: unknown): unknown {
  let at = schema as { def?: { innerType?: unknown } } | undefined;
  while (at?.def?.innerType) at = at.def.innerType as typeof at;
  return at;
}

function descend(schema: unknown, step: PropertyKey): unknown {
  const at = schema as { shape?: Record<PropertyKey, unknown>; def?: { element?: unknown; valueType?: unknown } } | undefined;
  return at?.shape?.[step] ?? at?.def?.element ?? at?.def?.valueType;
}

/** The candidate with the smallest edit distance, if it is near enough to be a typing mistake. */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let least = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < least) [best, least] = [candidate, distance];
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}

function keyText(pair: Pair): string {
  const key = pair.key as { value?: unknown } | null;
  return String(key && typeof key === 'object' && 'value' in key ? key.value : key);
}
