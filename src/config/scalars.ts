// Single values of rackseed.yaml: addresses, durations, names; each with the words that an operator gets when it is none.
import { z } from 'zod';
import { parseIp4, parseRange, parseSubnet, type IpRange, ip4ToNumber } from '../addr.ts';

export const ip4 = z.string().refine((text) => parseIp4(text) !== undefined, 'not an IPv4 address, such as 10.77.0.1').meta({ format: 'ipv4' });

export const subnet = z.string().refine((text) => parseSubnet(text) !== undefined, 'not a subnet, such as 10.77.0.0/24 (host bits must be zero)');

export const range = z.string().refine((text) => parseRange(text) !== undefined, 'not a range, such as 10.77.0.100-10.77.0.199');

export const addressOrRange = z.string().refine((text) => rangeOf(text) !== undefined, 'neither an IPv4 address nor a range, such as 10.77.0.100-10.77.0.199');

/** The kernel's rule (IFNAMSIZ), without the colon of old alias names. */
export const cardName = z.string().regex(/^(?!\.{1,2}$)[^\s/:]{1,15}$/, 'not the name of a card, such as eth0');

const DURATION = 'not a duration, such as 90s, 30m, 12h or 7d';
/** Leases and refreshes of less than a second are none; more than ten years is a typing mistake. */
export const duration = z.union([z.number(), z.string()], { error: DURATION }).refine((value) => /^[1-9]\d{0,8}[smhd]?$/.test(String(value)) && seconds(value) <= 315_360_000, { error: DURATION, abort: true });

const SIZE = 'not a size, such as 64MiB or 1GiB; a number alone is bytes';
export const size = z.union([z.number(), z.string()], { error: SIZE }).refine((value) => /^\d{1,15}(KiB|MiB|GiB)?$/.test(String(value)) && bytesOf(value) <= 2 ** 40, { error: SIZE, abort: true });

/** Paths are added to it, so it ends the URL: neither query nor fragment; nor a user, since machines would show it on their consoles. */
export const httpBase = z
  .string()
  .refine((text) => /^https?:\/\/[A-Za-z0-9.-]+(:\d{1,5})?(\/[A-Za-z0-9._~%+-]+)*\/?$/.test(text) && URL.canParse(text), 'not the start of an HTTP URL, such as https://cdn.example/rackseed');

/** A single address is a range of one. */
export function rangeOf(text: string): IpRange | undefined {
  const ip = parseIp4(text);
  return ip === undefined ? parseRange(text) : { first: ip4ToNumber(ip), last: ip4ToNumber(ip) };
}

/** Of a value that `duration` took. */
export function seconds(value: number | string): number {
  const [, amount, unit] = /^(\d+)([smhd]?)$/.exec(String(value))!;
  return Number(amount) * { '': 1, s: 1, m: 60, h: 3600, d: 86400 }[unit as '' | 's' | 'm' | 'h' | 'd'];
}

/** Of a value that `size` took. */
export function bytesOf(value: number | string): number {
  const [, amount, unit] = /^(\d+)([KMG]iB)?$/.exec(String(value))!;
  return Number(amount) * { '': 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 }[(unit ?? '') as '' | 'KiB' | 'MiB' | 'GiB'];
}
