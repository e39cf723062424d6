// Content digests: sha256 of bytes, and of values in one canonical JSON form, so that equal content has one name everywhere.
import { createHash } from 'node:crypto';

/** `sha256:` and 64 hex digits in lower case. */
export type Digest = string;

const DIGEST = /^sha256:[0-9a-f]{64}$/;

export function isDigest(text: string): text is Digest {
  return DIGEST.test(text);
}

export function sha256Hex(data: string | Uint8Array): string {
  return createHash('sha256').update(data).digest('hex');
}

export function digestOfBytes(data: string | Uint8Array): Digest {
  return `sha256:${sha256Hex(data)}`;
}

/** The digest of a plain JSON value; key order and `undefined` members do not matter. */
export function digestOfValue(value: unknown): Digest {
  return digestOfBytes(canonicalJson(value));
}

/** JSON with sorted keys and no spaces. `undefined` members are left out, as JSON.stringify does. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, member: unknown) =>
    member !== null && typeof member === 'object' && !Array.isArray(member)
      ? Object.fromEntries(Object.entries(member).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)))
      : member,
  );
}

/** The 64 hex digits of a digest: its name in `/blobs/sha256/<hex>` and in the blob directory. */
export function hexOf(digest: Digest): string {
  return digest.slice('sha256:'.length);
}
