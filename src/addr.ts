// Addresses as values: MAC, IPv4 and IPv6 text forms, subnets and ranges; parsing answers undefined instead of throwing.

/** A MAC address, always lower case with colons: `52:54:00:12:34:56`. */
export type Mac = string;
/** An IPv4 address, always dotted quad without leading zeros: `10.77.0.11`. */
export type Ip4 = string;
/** An IPv6 address without a zone, in RFC 5952's form: `fd00:77::1`. */
export type Ip6 = string;

export interface Subnet {
  /** Network address as an unsigned 32-bit number, host bits zero. */
  readonly network: number;
  readonly prefix: number;
}

/** An IPv6 network. */
export interface Subnet6 {
  /** The upper `prefix` bits of the address; the others are cut off. */
  readonly network6: bigint;
  readonly prefix: number;
}

/** Both ends belong to the range. */
export interface IpRange {
  readonly first: number;
  readonly last: number;
}

const SIX_HEX_PAIRS = /^[0-9a-f]{12}$/;

/**
 * Reads the forms people and firmware write: `52:54:00:12:34:56`, `52-54-00-12-34-56`, `5254.0012.3456`,
 * `525400123456`, and PXELINUX's BOOTIF `01-52-54-...` (01 = Ethernet).
 */
export function parseMac(text: string): Mac | undefined {
  let hex = text.trim().toLowerCase();
  if (/^01-([0-9a-f]{2}-){5}[0-9a-f]{2}$/.test(hex)) hex = hex.slice(3);
  if (!/^(([0-9a-f]{2}:){5}[0-9a-f]{2}|([0-9a-f]{2}-){5}[0-9a-f]{2}|([0-9a-f]{4}\.){2}[0-9a-f]{4}|[0-9a-f]{12})$/.test(hex)) {
    return undefined;
  }
  hex = hex.replace(/[:.-]/g, '');
  return SIX_HEX_PAIRS.test(hex) ? hex.match(/../g)!.join(':') : undefined;
}

/** `52-54-00-12-34-56`: the form that is safe in a file name or URL path. */
export function macDashes(mac: Mac): string {
  return mac.replaceAll(':', '-');
}

/** Strict dotted quad; leading zeros are refused because half of the world reads them as octal. */
export function parseIp4(text: string): Ip4 | undefined {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text.trim());
  if (!match) return undefined;
  const parts = match.slice(1);
  if (parts.some((part) => Number(part) > 255 || (part.length > 1 && part.startsWith('0')))) return undefined;
  return parts.join('.');
}

/** The address as an unsigned 32-bit number. The argument must be a valid `Ip4`. A loop, because it runs several times for each packet. */
export function ip4ToNumber(ip: Ip4): number {
  let number = 0;
  let byte = 0;
  for (let i = 0; i < ip.length; i++) {
    const code = ip.charCodeAt(i);
    if (code !== 46) byte = byte * 10 + code - 48;
    else {
      number = (number << 8) | byte;
      byte = 0;
    }
  }
  return ((number << 8) | byte) >>> 0;
}

export function ip4FromNumber(n: number): Ip4 {
  return `${n >>> 24}.${(n >>> 16) & 255}.${(n >>> 8) & 255}.${n & 255}`;
}

/** `10.77.0.0/24`; host bits that are not zero are refused, they are nearly always a typing mistake. */
export function parseSubnet(text: string): Subnet | undefined {
  const match = /^([0-9.]+)\/(\d{1,2})$/.exec(text.trim());
  const ip = match && parseIp4(match[1]!);
  if (!ip) return undefined;
  const prefix = Number(match[2]);
  if (prefix < 1 || prefix > 32) return undefined;
  const network = ip4ToNumber(ip);
  return (network & maskNumber(prefix)) >>> 0 === network ? { network, prefix } : undefined;
}

/** `10.77.0.100-10.77.0.199`, both ends included, first <= last. */
export function parseRange(text: string): IpRange | undefined {
  const [a, b, rest] = text.split('-').map((part) => parseIp4(part));
  if (!a || !b || rest !== undefined || text.split('-').length !== 2) return undefined;
  const range = { first: ip4ToNumber(a), last: ip4ToNumber(b) };
  return range.first <= range.last ? range : undefined;
}

/** The network that an address with this prefix (1-32) lies in. */
export function subnetOf(ip: Ip4, prefix: number): Subnet {
  return { network: (ip4ToNumber(ip) & maskNumber(prefix)) >>> 0, prefix };
}

export function subnetContains(subnet: Subnet, ip: Ip4): boolean {
  return (ip4ToNumber(ip) & maskNumber(subnet.prefix)) >>> 0 === subnet.network;
}

export function netmask(subnet: Subnet): Ip4 {
  return ip4FromNumber(maskNumber(subnet.prefix));
}

export function broadcastOf(subnet: Subnet): Ip4 {
  return ip4FromNumber((subnet.network | ~maskNumber(subnet.prefix)) >>> 0);
}

export function formatSubnet(subnet: Subnet): string {
  return `${ip4FromNumber(subnet.network)}/${subnet.prefix}`;
}

/** No zone (`%eth0`): what it is on one machine says nothing on another. */
export function parseIp6(text: string): Ip6 | undefined {
  const trimmed = text.trim();
  if (!/^[0-9a-f:.]{2,45}$/i.test(trimmed) || !trimmed.includes(':')) return undefined;
  try {
    // The URL parser writes the one form of RFC 5952, whatever was put in.
    return new URL(`http://[${trimmed}]/`).hostname.slice(1, -1);
  } catch {
    return undefined;
  }
}

/** The address as 128 bits. The argument must be a valid `Ip6`. */
function ip6ToBigint(ip: Ip6): bigint {
  const [head = '', tail = ''] = ip.split('::');
  const groups = (part: string) => (part === '' ? [] : part.split(':'));
  const [upper, lower] = [groups(head), groups(tail)];
  const all = [...upper, ...new Array<string>(8 - upper.length - lower.length).fill('0'), ...lower];
  return BigInt(`0x${all.map((group) => group.padStart(4, '0')).join('')}`);
}

/** The network that an address with this prefix (1-128) lies in. */
export function subnet6Of(ip: Ip6, prefix: number): Subnet6 {
  return { network6: ip6ToBigint(ip) >> BigInt(128 - prefix), prefix };
}

export function subnet6Contains({ network6, prefix }: Subnet6, ip: Ip6): boolean {
  return ip6ToBigint(ip) >> BigInt(128 - prefix) === network6;
}

function maskNumber(prefix: number): number {
  return prefix === 0 ? 0 : (0xffffffff << (32 - prefix)) >>> 0;
}
