// From a YAML document and a schema's complaints to faults with file, line, column and a "did you mean".
import { isMap, isPair, type Document, type LineCounter, type Node as YamlNode, type Pair } from 'yaml';
import type { z } from 'zod';
import type { Fault } from '../errors.ts';

export type Path = readonly PropertyKey[];
type Issue = z.core.$ZodIssue;

/** Syntax errors of the YAML itself, and tags that mean nothing to it. */
export function yamlFaults(document: Document.Parsed, file: string): Fault[] {
  const found = [...document.errors, ...document.warnings];
  const deep = found.filter((error) => /call stack/.test(error.message));
  // Each level that was left open complains for itself; one complaint tells it.
  return (deep.length > 0 ? deep.slice(0, 1) : found.filter((error, index) => index === 0 || error.message !== found[index - 1]!.message)).map((error) => ({
    file,
    line: error.linePos?.[0].line ?? 1,
    column: error.linePos?.[0].col ?? 1,
    message: syntaxMessage(error),
  }));
}

function syntaxMessage({ code, message }: { readonly code: string; readonly message: string }): string {
  if (/call stack/.test(message)) return 'nested too deeply to be read';
  if (code === 'MULTIPLE_DOCS') return 'a second document starts here; one file holds one';
  const line = message.split('\n')[0]!.replace(/ at line \d+, column \d+:?$/, '');
  return code === 'TAG_RESOLVE_FAILED' ? line.replace(/^Unresolved tag: (.*)$/, 'tag $1 means nothing here') : line;
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
  return error.issues.flatMap(insideUnion).flatMap((issue): Fault[] => {
    if (issue.code === 'unrecognized_keys') {
      return issue.keys.map((key) => {
        const near = nearest(key, knownKeys(issue.path));
        const hint = near ? { hint: `did you mean ${near}?` } : {};
        return { file, ...placeOf(document, lines, [...issue.path, key], { key: true }), message: `unknown key ${key}`, ...hint };
      });
    }
    const where = issue.path.length > 0 ? `${issue.path.join('.')}: ` : '';
    const badKey = issue.code === 'invalid_key';
    const message = (badKey && issue.issues[0]?.message) || issue.message;
    return [{ file, ...placeOf(document, lines, issue.path, { key: badKey }), message: `${where}${message}` }];
  });
}

/** `eth0` or `{ name: eth0 }`: of several forms, what is wrong inside of the one that was written tells more than that none fits. */
function insideUnion(issue: Issue): Issue[] {
  if (issue.code !== 'invalid_union') return [issue];
  const written = issue.errors.find((issues) => !issues.some((one) => one.path.length === 0 && (one.code === 'invalid_type' || one.code === 'invalid_value')));
  return written ? written.flatMap((one) => insideUnion({ ...one, path: [...issue.path, ...one.path] } as Issue)) : [issue];
}

/** An operator's words for what a schema says by default; for `safeParse(value, { error: plainWords })`. A schema's own message wins. */
export function plainWords(issue: { readonly code?: string | undefined; readonly input?: unknown; readonly expected?: unknown; readonly values?: readonly unknown[] }): string | undefined {
  if (issue.code !== 'invalid_type' && issue.code !== 'invalid_value' && issue.code !== 'invalid_union') return undefined;
  if (issue.input === undefined) return 'missing';
  if (issue.input === null) return 'empty';
  if (issue.code === 'invalid_value') return `must be ${(issue.values ?? []).map(String).join(' or ')}, not ${shown(issue.input)}`;
  if (issue.code === 'invalid_union') return `must be one value, not ${shown(issue.input)}`;
  const words: Record<string, string> = { array: 'a list, such as [a, b]', object: 'a map, such as { key: value }', record: 'a map, such as { key: value }', string: 'text', number: 'a number', int: 'a whole number', boolean: 'true or false' };
  return `must be ${words[String(issue.expected)] ?? String(issue.expected)}, not ${shown(issue.input)}`;
}

function shown(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'a map';
  const text = String(value);
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}

/** The keys that a schema knows at a path, so that a wrong one can be answered with a near one. */
export function knownKeys(schema: z.ZodType, path: Path): readonly string[] {
  let at: unknown = schema;
  for (const step of path) at = descend(unwrap(at), step);
  const shape = (unwrap(at) as { shape?: Record<string, unknown> } | undefined)?.shape;
  return shape ? Object.keys(shape) : [];
}

function unwrap(schema: unknown): unknown {
  let at = schema as { shape?: unknown; def?: { innerType?: unknown; in?: unknown; options?: readonly unknown[] } } | undefined;
  while (at?.def?.innerType ?? at?.def?.in) at = (at!.def!.innerType ?? at!.def!.in) as typeof at;
  // Of several forms only a map has keys.
  return at?.def?.options?.map(unwrap).find((form) => (form as typeof at)?.shape) ?? at;
}

function descend(schema: unknown, step: PropertyKey): unknown {
  const at = schema as { shape?: Record<PropertyKey, unknown>; def?: { element?: unknown; valueType?: unknown } } | undefined;
  return at?.shape?.[step] ?? at?.def?.element ?? at?.def?.valueType;
}

/** The candidate with the smallest edit distance, if it is near enough to be a typing mistake. */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let least = Math.max(1, Math.floor(word.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < least) [best, least] = [candidate, distance];
  }
  return best;
}

/** Insertions, deletions, changes, and two neighbours swapped, which is the commonest slip of all: `exti`. */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      const swap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? before[j - 2]! + 1 : Infinity;
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, change, swap));
    }
    [before, row] = [row, next];
  }
  return row[b.length]!;
}

function keyText(pair: Pair): string {
  const key = pair.key as { value?: unknown } | null;
  return String(key && typeof key === 'object' && 'value' in key ? key.value : key);
}
