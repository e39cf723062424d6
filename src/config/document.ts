// A YAML file as operators write it: its values, the place of each, and every mistake that YAML itself would let pass.
import { isAlias, isScalar, LineCounter, parseDocument, visit, type Document, type Node as YamlNode, type Pair } from 'yaml';
import type { Fault } from '../errors.ts';
import { placeOf, yamlFaults, type Path } from './faults.ts';

export interface Place {
  readonly line: number;
  readonly column: number;
}

export interface YamlFile {
  readonly file: string;
  readonly document: Document.Parsed;
  readonly lines: LineCounter;
  /** The content as plain data; undefined when the file could not be read as YAML. An empty file is null. */
  readonly value: unknown;
  readonly faults: readonly Fault[];
  place(path: Path, options?: { readonly key?: boolean }): Place;
}

/**
 * Reads one file; never throws. With `scalars: 'text'` numbers and booleans stay as they were written: `1.30` is a version and
 * `525400123456` a MAC, and neither survives being a number. Duplicate keys, unknown tags and aliases that lead nowhere are faults.
 */
export function readYaml(text: string, file: string, options: { readonly scalars: 'text' | 'typed' }): YamlFile {
  const lines = new LineCounter();
  // The schema is named, so that a `%YAML 1.1` line cannot bring back base-60 integers, which is what 52:54:00:12:34:56 is there.
  const parse = (source: string) => parseDocument(source, { lineCounter: lines, schema: 'core', uniqueKeys: false, logLevel: 'error' });
  const unreadable = (message: string): YamlFile => ({ file, document: parse(''), lines, value: undefined, faults: [{ file, line: 1, column: 1, message }], place: () => ({ line: 1, column: 1 }) });
  try {
    const document = parse(text);
    const place: YamlFile['place'] = (path, keys) => placeOf(document, lines, path, keys);
    const broken = (faults: readonly Fault[]): YamlFile => ({ file, document, lines, value: undefined, faults, place });
    const syntax = yamlFaults(document, file);
    if (syntax.length > 0) return broken(syntax);
    const structure = structureFaults(document, lines, file);
    const faults = structure.map((entry) => entry.fault);
    if (structure.some((entry) => entry.fatal)) return broken(faults);
    if (options.scalars === 'text') keepText(document);
    return { file, document, lines, value: document.toJS() as unknown, faults, place };
  } catch (error) {
    // The library's guard against a file whose aliases unfold into a huge one, or the end of the stack.
    return unreadable(error instanceof ReferenceError ? 'too many aliases' : 'nested too deeply to be read');
  }
}

function structureFaults(document: Document.Parsed, lines: LineCounter, file: string): { fault: Fault; fatal: boolean }[] {
  const found: { fault: Fault; fatal: boolean }[] = [];
  const at = (node: unknown): Place => {
    const { line, col } = lines.linePos((node as YamlNode | null)?.range?.[0] ?? 0);
    return { line: Math.max(1, line), column: Math.max(1, col) };
  };
  const add = (node: unknown, message: string, fatal: boolean) => found.push({ fault: { file, ...at(node), message }, fatal });
  visit(document, {
    Map(_key, map) {
      const first = new Map<string, Place>();
      for (const pair of map.items as Pair[]) {
        if (!isScalar(pair.key)) {
          add(pair.key ?? map, 'a key must be plain text', true);
          continue;
        }
        const name = String(pair.key.source ?? pair.key.value);
        // Schema libraries drop this key without a word.
        if (name === '__proto__') add(pair.key, 'key __proto__ cannot be used', false);
        const before = first.get(name);
        if (before) add(pair.key, `key ${name} stands twice in one map, also at ${file}:${before.line}:${before.column}`, false);
        else first.set(name, at(pair.key));
      }
    },
    Node(_key, node, ancestors) {
      if (isAlias(node)) {
        const target = node.resolve(document);
        if (!target) add(node, `*${node.source} names no anchor that stands before it`, true);
        else if (ancestors.includes(target)) add(node, `*${node.source} contains itself`, true);
      }
    },
  });
  return found;
}

function keepText(document: Document.Parsed): void {
  visit(document, {
    Scalar(_key, scalar) {
      if (scalar.value !== null && typeof scalar.value !== 'string' && scalar.source !== undefined) scalar.value = scalar.source;
    },
  });
}
