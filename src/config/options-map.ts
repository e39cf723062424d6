// The `options:` and `dhcpOptions:` maps of YAML: each entry as bytes for the wire, or a fault at its place.
import { z } from 'zod';
import { OPTION_NAMES, OPTION_TYPES, parseExtraOption, type ExtraOption, type ExtraOptions } from '../dhcp/option-values.ts';
import type { Fault } from '../errors.ts';
import type { YamlFile } from './document.ts';
import { nearest, type Path } from './faults.ts';

const scalar = { type: ['string', 'number', 'boolean'] };
const plain = { anyOf: [scalar, { type: 'array', items: { anyOf: [scalar, { type: 'object' }, { type: 'array' }] } }] };

/** Only a map here; what its entries mean is said by the table of options. The rest is for the editor. */
export const optionsSchema = z
  .record(z.string(), z.unknown().meta({ anyOf: [...plain.anyOf, { type: 'object', properties: { type: { enum: [...OPTION_TYPES] }, value: plain, always: { type: 'boolean' } }, required: ['value'], additionalProperties: false }] }))
  .meta({ propertyNames: { anyOf: [{ enum: [...OPTION_NAMES] }, { pattern: '^[0-9]{1,3}$' }] } })
  .describe('DHCP options by name or number: a value, a list, or { type, value, always }');

/** `value` as the file has it; what is no map is the schema's to tell. The options by number, in their order, and every fault. */
export function readOptions(value: unknown, yaml: YamlFile, path: Path): { readonly options: ExtraOptions; readonly faults: readonly Fault[] } {
  const found = new Map<number, { readonly key: string; readonly option: ExtraOption }>();
  const faults: Fault[] = [];
  // JavaScript puts keys that are numbers first.
  const inOrder = Object.entries((value ?? {}) as Record<string, unknown>).map(([key, content]) => ({ key, content, ...yaml.place([...path, key], { key: true }) }));
  for (const { key, content } of inOrder.sort((a, b) => a.line - b.line || a.column - b.column)) {
    const where = [...path, key];
    const parsed = parseExtraOption(key, content);
    if ('fault' in parsed) {
      const near = parsed.unknown ? nearest(key, OPTION_NAMES) : undefined;
      const hint = near ? `did you mean ${near}?` : parsed.hint;
      faults.push({ file: yaml.file, ...yaml.place(where, { key: parsed.unknown === true }), message: parsed.unknown ? `unknown option ${key}` : `${where.map(String).join('.')}: ${parsed.fault}`, ...(hint ? { hint } : {}) });
      continue;
    }
    const other = found.get(parsed.code);
    if (other) {
      const { line, column } = yaml.place([...path, other.key], { key: true });
      faults.push({ file: yaml.file, ...yaml.place(where, { key: true }), message: `option ${parsed.code} is set twice, also at ${yaml.file}:${line}:${column}` });
    } else {
      found.set(parsed.code, { key, option: parsed.option });
    }
  }
  return { options: Object.fromEntries([...found].sort(([a], [b]) => a - b).map(([code, { option }]) => [code, option])), faults };
}
