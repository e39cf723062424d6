// Options that operators add in YAML: by name or number with a type, as values -> bytes; and what may be set at all.
import { parseIp4, parseSubnet, type Ip4, type Subnet } from '../addr.ts';
import { domains, isDomain } from './names.ts';
import { KNOWN_OPTIONS, OPTION_TYPES, OWN_OPTIONS, type KnownOption, type OptionType } from './option-table.ts';
import { classlessRoutes, ips, text, uint16s, uint32, uint8 } from './options.ts';

export { OPTION_NAMES, OPTION_TYPES, type OptionType } from './option-table.ts';

/** One option that an operator set. */
export interface ExtraOption {
  /** The value's bytes in hex. */
  readonly hex: string;
  /** Sent whether or not the client asked for it (option 55). */
  readonly always?: boolean;
}

/** By option number. Plain data: it is a part of a generation. */
export type ExtraOptions = Readonly<Record<number, ExtraOption>>;

export interface OptionFault {
  /** What is wrong, without the place. */
  readonly fault: string;
  readonly hint?: string;
  /** The key is no name that we know: the caller may find the nearest of OPTION_NAMES. */
  readonly unknown?: boolean;
}

/** RFC 3397 and RFC 3442 split what is longer than one option; more than this does not fit a packet. */
const MOST_BYTES: Partial<Record<OptionType, number>> = { domains: 1024, routes: 1024 };
const LIMITS: Partial<Record<OptionType, readonly [least: number, most: number]>> = { uint8: [0, 0xff], uint16: [0, 0xffff], uint32: [0, 0xffffffff], int32: [-0x80000000, 0x7fffffff] };

/**
 * One entry of `options:` or `dhcpOptions:`. The key is a name or a number from 1 to 254; the value is plain, or `{ type?, value, always? }`. Scalars may be typed or
 * all text: settings are read one way, profiles the other.
 */
export function parseExtraOption(key: string, value: unknown): { readonly code: number; readonly option: ExtraOption } | OptionFault {
  const named = optionOf(key);
  if ('fault' in named) return named;
  const { code, known } = named;
  const long = isMap(value) && !('to' in value) ? value : undefined;
  const extra = Object.keys(long ?? {}).find((word) => !['type', 'value', 'always'].includes(word));
  if (extra !== undefined) return { fault: `unknown key ${extra}`, hint: 'an option is a plain value, or { type, value, always }' };
  const type = long?.type === undefined ? known?.type : OPTION_TYPES.find((name) => name === long.type);
  if (!type) {
    const one = `one of ${OPTION_TYPES.join(', ')}`;
    return long?.type === undefined ? { fault: 'it has no name here, so it needs a type', hint: `write { type: …, value: … } with ${one}` } : { fault: `${shown(long.type)} is no type of an option`, hint: one };
  }
  const always = long?.always === undefined ? false : boolOf(long.always);
  if (always === undefined) return { fault: `always must be true or false, not ${shown(long!.always)}` };
  const plain = long ? long.value : value;
  if (plain === undefined || plain === null || plain === '') return { fault: 'has no value' };
  const bytes = type === known?.type ? bytesOf(type, plain, known) : bytesOf(type, plain, { code, type });
  if (!(bytes instanceof Uint8Array)) return bytes;
  const most = MOST_BYTES[type] ?? 255;
  if (bytes.length > most) return { fault: `its value has ${bytes.length} bytes, at most ${most} can be sent` };
  return { code, option: { hex: Buffer.from(bytes).toString('hex'), ...(always ? { always } : {}) } };
}

/** The value of an option as it goes into a packet. */
export function optionBytes(option: ExtraOption): Uint8Array {
  return new Uint8Array(Buffer.from(option.hex, 'hex'));
}

/** Which option a key means, if it may be set at all. */
function optionOf(key: string): { readonly code: number; readonly known?: KnownOption } | OptionFault {
  const byName = Object.hasOwn(KNOWN_OPTIONS, key) ? KNOWN_OPTIONS[key] : undefined;
  if (byName) return { code: byName.code, known: byName };
  const own = Object.entries(OWN_OPTIONS).find(([number, { name }]) => number === key || name === key);
  if (own) return { fault: `option ${own[0]} (${own[1].name}) is not set here`, hint: own[1].hint };
  if (!/^\d+$/.test(key)) return { fault: `${shown(key)} is no option that we know`, hint: 'options without a name here go by number: 224: { type: text, value: … }', unknown: true };
  const code = Number(key);
  if (code < 1 || code > 254 || key !== String(code)) return { fault: `${key} is no option number`, hint: 'they go from 1 to 254' };
  const known = Object.values(KNOWN_OPTIONS).find((entry) => entry.code === code);
  return known ? { code, known } : { code };
}

function bytesOf(type: OptionType, value: unknown, { least, pairs }: KnownOption): Uint8Array | OptionFault {
  switch (type) {
    case 'ip':
      return listOf([value], ipFrom, 'an IPv4 address, such as 10.77.0.1', (list) => ips(...list));
    case 'ips': {
      const found = listOf(listed(value), ipFrom, 'IPv4 addresses, such as [10.77.0.1, 10.77.0.2]', (list) => ips(...list));
      return pairs && found instanceof Uint8Array && found.length % 8 !== 0 ? { fault: 'its addresses come in pairs, and one is left over' } : found;
    }
    case 'uint8':
    case 'uint16':
    case 'uint32':
    case 'int32': {
      const [lowest, most] = [least ?? LIMITS[type]![0], LIMITS[type]![1]];
      const write = { uint8, uint16: uint16s, uint32, int32: uint32 }[type];
      return listOf([value], (item) => numberFrom(item, lowest, most), `a whole number from ${lowest} to ${most}`, ([number]) => write(number!));
    }
    case 'bool':
      return listOf([value], boolOf, 'true or false', ([yes]) => uint8(yes ? 1 : 0));
    case 'text':
      return listOf([value], textFrom, 'text without control characters, of characters up to U+00FF (numbers with a fraction in quotes)', ([words]) => text(words!));
    case 'hex':
      return listOf([value], hexFrom, 'bytes in hex and in quotes, such as "01:0a:ff"', ([hex]) => new Uint8Array(Buffer.from(hex!, 'hex')));
    case 'domains':
      return listOf(listed(value), domainFrom, 'domain names, such as [rack.example, example.org]', domains);
    case 'routes':
      return listOf(listed(value), routeFrom, 'routes, such as [{ to: 10.0.0.0/8, via: 10.77.0.254 }] or "default via 10.77.0.1"', classlessRoutes);
  }
}

/** Each item read, then all written; the first that cannot be read is the fault. An empty list has no value to send. */
function listOf<T>(items: readonly unknown[], read: (item: unknown) => T | undefined, wanted: string, write: (list: T[]) => Uint8Array): Uint8Array | OptionFault {
  const list: T[] = [];
  for (const item of items) {
    const found = read(item);
    if (found === undefined) return { fault: `must be ${wanted}, not ${shown(item)}` };
    list.push(found);
  }
  return list.length === 0 ? { fault: 'has no value' } : write(list);
}

function ipFrom(item: unknown): Ip4 | undefined {
  return typeof item === 'string' ? parseIp4(item) : undefined;
}

/** An address would pass as a name, and mean nothing to a resolver. */
function domainFrom(item: unknown): string | undefined {
  return typeof item === 'string' && isDomain(item) && !parseIp4(item) ? item : undefined;
}

function numberFrom(item: unknown, least: number, most: number): number | undefined {
  const number = typeof item === 'string' && /^(-?\d{1,10}|0x[0-9a-f]{1,8})$/i.test(item) ? Number(item) : item;
  return typeof number === 'number' && Number.isInteger(number) && number >= least && number <= most ? number : undefined;
}

function boolOf(item: unknown): boolean | undefined {
  if (item === true || item === 'true' || item === 'on') return true;
  return item === false || item === 'false' || item === 'off' ? false : undefined;
}

/** A number that YAML has read already may have lost how it was written: 1.10 is 1.1 by now. */
function textFrom(item: unknown): string | undefined {
  const words = typeof item === 'boolean' || Number.isSafeInteger(item) ? String(item) : item;
  return typeof words === 'string' && /^[ -~\u00a0-\u00ff]+$/.test(words) ? words : undefined;
}

function hexFrom(item: unknown): string | undefined {
  if (typeof item !== 'string') return undefined;
  return /^(0x)?[0-9a-f]{2}([: -]?[0-9a-f]{2})*$/i.test(item) ? item.replace(/^0x|[: -]/gi, '') : undefined;
}

function routeFrom(item: unknown): { subnet: Subnet; router: Ip4 } | undefined {
  const [to, via] = typeof item === 'string' ? item.trim().split(/\s+via\s+/) : isMap(item) && Object.keys(item).length === 2 ? [item.to, item.via] : [];
  if (typeof to !== 'string' || typeof via !== 'string') return undefined;
  const subnet = to === 'default' || to === '0.0.0.0/0' ? { network: 0, prefix: 0 } : parseSubnet(to);
  const router = parseIp4(via);
  return subnet && router ? { subnet, router } : undefined;
}

function listed(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? (value as unknown[]) : [value];
}

function isMap(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function shown(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (isMap(value)) return 'a map';
  return typeof value === 'string' ? JSON.stringify(value.slice(0, 80)) : String(value);
}
