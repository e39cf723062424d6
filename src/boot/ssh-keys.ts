// SSH keys: lines of authorized_keys taken apart, and a node's host key as OpenSSH writes it. Pure.
import { createPrivateKey, createPublicKey, hkdfSync } from 'node:crypto';
import { sha256Hex } from '../digest.ts';

const TYPES = ['ssh-ed25519', 'ecdsa-sha2-nistp256', 'ecdsa-sha2-nistp384', 'ecdsa-sha2-nistp521', 'ssh-rsa', 'sk-ssh-ed25519@openssh.com', 'sk-ecdsa-sha2-nistp256@openssh.com'] as const;

/** Options are words with commas between, and in their quoted values anything may stand: `command="a \"b\" c",no-pty ssh-ed25519 …`. */
const LINE = new RegExp(`^\\s*(?:[A-Za-z@][^\\s"]*(?:"(?:[^"\\\\]|\\\\.)*"[^\\s"]*)*\\s+)??(${TYPES.map((type) => type.replaceAll('.', '\\.')).join('|')})\\s+(\\S+)(?:\\s.*)?$`);

/** sshd takes RSA keys of 1024 bits and more (RequiredRSASize). */
const RSA_BITS = 1024;

/** Longest line that is taken, in characters: RSA of 16384 bits has some 2,800. */
export const KEY_LINE_MAX = 8192;

/** Why sshd could not use this line of authorized_keys, or undefined when it can: the type is known, and the base64 is a key of just that type. */
export function faultOfKey(line: string): string | undefined {
  if (/PRIVATE KEY|PuTTY-User-Key-File/.test(line)) return 'this is a private key: give the public one, the .pub file beside it, and make a new pair, since this one has been shown';
  if (/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/.test(line)) return 'must be one line without control characters';
  if (line.length > KEY_LINE_MAX) return `has ${line.length} characters, at most ${KEY_LINE_MAX} are read`;
  const key = keyOf(line);
  if (key === undefined) {
    if (/(^|\s)ssh-dss\s/.test(line)) return 'ssh-dss: no sshd of today takes DSA keys';
    if (/^[~./]|\.pub$/.test(line.trim())) return 'this is the name of a file: give the line that stands in it';
    return `not a line of authorized_keys: ${TYPES.slice(0, 2).join(' or ')}, … and base64 behind it`;
  }
  const { type, blob } = key;
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(blob) || blob.length % 4 !== 0) return `${type}: what follows is not base64, or not all of it`;
  const fields = fieldsOf(Buffer.from(blob, 'base64'));
  if (!fields || fields[0]!.toString('latin1') !== type) return `${type}: the base64 is no key of that type, or not all of one`;
  return isOfType(type, fields) ? undefined : `${type}: the base64 is no key of that type${type === 'ssh-rsa' ? ` with ${RSA_BITS} bits or more` : ''}`;
}

/** Type and base64 of a line, behind its options if it has some; undefined when there is no known type. */
export function keyOf(line: string): { readonly type: string; readonly blob: string } | undefined {
  const [, type, blob] = LINE.exec(line) ?? [];
  return blob === undefined ? undefined : { type: type!, blob };
}

function isOfType(type: string, [, ...fields]: readonly Buffer[]): boolean {
  const sizes = (...wanted: readonly number[]) => fields.length === wanted.length && fields.every((field, index) => wanted[index] === 0 || field.length === wanted[index]);
  const curve = /nistp(\d+)/.exec(type)?.[1];
  // An uncompressed point: 0x04 and two coordinates.
  const point = curve === undefined ? 0 : 1 + 2 * Math.ceil(Number(curve) / 8);
  const onCurve = fields[0]?.toString('latin1') === `nistp${curve}` && fields[1]?.[0] === 4;
  switch (type) {
    case 'ssh-ed25519':
      return sizes(32);
    case 'sk-ssh-ed25519@openssh.com':
      return sizes(32, 0);
    case 'sk-ecdsa-sha2-nistp256@openssh.com':
      return sizes(8, point, 0) && onCurve;
    case 'ssh-rsa':
      return sizes(0, 0) && fields[1]!.length * 8 >= RSA_BITS;
    default:
      return sizes(8, point) && onCurve;
  }
}

/** RFC 4251 strings one behind the other, to the last byte; undefined when it is anything else. */
function fieldsOf(bytes: Buffer): Buffer[] | undefined {
  const fields: Buffer[] = [];
  let at = 0;
  while (at < bytes.length) {
    const end = at + 4 <= bytes.length ? at + 4 + bytes.readUInt32BE(at) : Infinity;
    if (end > bytes.length) return undefined;
    fields.push(bytes.subarray(at + 4, end));
    at = end;
  }
  return fields.length > 0 ? fields : undefined;
}

export interface HostKey {
  /** The text of OpenSSH's private key file. */
  readonly file: string;
  /** `ssh-ed25519 AAAA…`: what stands in known_hosts behind the names. */
  readonly publicKey: string;
  /** As `ssh-keygen -l` shows it: `SHA256:…`. */
  readonly fingerprint: string;
}

/** PKCS #8 of an Ed25519 key, without the 32 bytes of its seed (RFC 8410). */
const PKCS8 = Buffer.from('302e020100300506032b657004220420', 'hex');

/** The Ed25519 host key of a node: the same at each of its boots as long as the secret (32 bytes) is the same, and without the secret nobody can tell it. */
export function hostKeyOf(secret: Uint8Array, node: string): HostKey {
  const seed = Buffer.from(hkdfSync('sha256', secret, '', `rackseed ssh host key ${node}`, 32));
  const spki = createPublicKey(createPrivateKey({ key: Buffer.concat([PKCS8, seed]), format: 'der', type: 'pkcs8' })).export({ format: 'der', type: 'spki' });
  const point = spki.subarray(-32);
  const blob = Buffer.concat([field('ssh-ed25519'), field(point)]);
  // Two equal numbers, by which OpenSSH knows that it has decrypted rightly; any will do, and the same key is to have the same file.
  const check = Buffer.from(sha256Hex(blob).slice(0, 8), 'hex');
  const body = Buffer.concat([check, check, blob, field(Buffer.concat([seed, point])), field(`root@${node}`)]);
  const padding = Buffer.from(Array.from({ length: (8 - (body.length % 8)) % 8 }, (_, index) => index + 1));
  const one = Buffer.from([0, 0, 0, 1]);
  const whole = Buffer.concat([Buffer.from('openssh-key-v1\0'), field('none'), field('none'), field(''), one, field(blob), field(Buffer.concat([body, padding]))]);
  return {
    file: `-----BEGIN OPENSSH PRIVATE KEY-----\n${whole.toString('base64').replace(/.{1,70}/g, '$&\n')}-----END OPENSSH PRIVATE KEY-----\n`,
    publicKey: `ssh-ed25519 ${blob.toString('base64')}`,
    fingerprint: `SHA256:${Buffer.from(sha256Hex(blob), 'hex').toString('base64').replace(/=+$/, '')}`,
  };
}

/** An RFC 4251 string. */
function field(content: string | Buffer): Buffer {
  const bytes = Buffer.from(content as string);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}
