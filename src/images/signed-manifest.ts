// The manifest as it is signed: lines that the initrd stage can read in sh, rendered and parsed here and nowhere else.
import { Readable } from 'node:stream';
import type { BlobRef, VerityRef } from '../boot/profile.ts';
import { digestOfValue, isDigest, type Digest } from '../digest.ts';
import { AppError } from '../errors.ts';
import type { BlobStore } from '../store/blobs.ts';
import type { ImageManifest } from './manifest.ts';
import { signatureText, verifySignature, type PublicKey, type SecretKey, type Signed } from './minisign.ts';

const FIRST = 'rackseed-image 1';
/** A line for each 4 MiB: enough for 50 GB. The initrd stage reads no more than this either. */
const MOST_BYTES = 1024 * 1024;

/** What the text says; `json` stands for all the rest of the manifest. */
export interface SignedManifest {
  readonly name: string;
  readonly arch: string;
  readonly serial: number;
  readonly digest: Digest;
  readonly kernel: BlobRef;
  readonly initrds: readonly BlobRef[];
  readonly squashfs: BlobRef;
  readonly verity?: VerityRef;
  readonly cmdline: readonly string[];
  readonly json: Digest;
  readonly chunkSize: number;
  /** sha256 of each chunk, 64 hex digits. */
  readonly chunks: readonly string[];
}

/** The digest of everything that is known of the build, but for what is made of it later: its signature and its UKI. */
export function jsonDigest({ signed: _signed, uki: _uki, ...manifest }: ImageManifest): Digest {
  return digestOfValue(manifest);
}

/** The text; equal manifests have equal ones. BUG for what would not be one line each. */
export function signedText(manifest: ImageManifest): string {
  const { name, arch, digest, kernel, initrds, squashfs, verity, cmdline = [] } = manifest;
  const blob = (key: string, { digest, size }: BlobRef): string => `${key} ${digest} ${size}`;
  const text = [
    FIRST,
    `name ${name}`,
    `arch ${arch}`,
    `serial ${manifest.serial ?? 0}`,
    `digest ${digest}`,
    blob('kernel', kernel),
    ...initrds.map((initrd) => blob('initrd', initrd)),
    blob('squashfs', squashfs),
    ...(verity ? [`verity ${verity.rootHash} ${verity.blocks}`] : []),
    ...(cmdline.length > 0 ? [`cmdline ${cmdline.join(' ')}`] : []),
    `json ${jsonDigest(manifest)}`,
    `chunk-size ${squashfs.chunkSize}`,
    ...squashfs.chunks.map((chunk) => `chunk ${chunk}`),
    '',
  ].join('\n');
  // Whatever a word of the image's command line is, it must not add a line to what is signed.
  const read = parseSignedText(text, `the manifest of ${name}`);
  if (read.cmdline.join(' ') !== cmdline.join(' ') || read.digest !== digest) throw new AppError('BUG', `the manifest of ${name} cannot be written as lines`);
  return text;
}

/** The lines, each in its place and none else. SIGNATURE_INVALID with the line's number; `place` names the text. */
export function parseSignedText(text: string, place: string): SignedManifest {
  if (text.length > MOST_BYTES) throw fault(place, 1, 'more than 1 MiB');
  const lines = text.split('\n');
  if (lines.pop() !== '') throw fault(place, lines.length + 1, 'the last line has no end');
  let at = 0;
  /** The next line's words behind the key; undefined when another key stands there. */
  const next = (key: string): string | undefined => (lines[at]?.startsWith(`${key} `) ? lines[at++]!.slice(key.length + 1) : undefined);
  const need = <T>(key: string, read: (words: string) => T | undefined): T => {
    const words = next(key);
    if (words === undefined) throw fault(place, at + 1, `here ${key} should stand`);
    const value = read(words);
    if (value === undefined) throw fault(place, at, `not a ${key}`);
    return value;
  };
  const many = <T>(key: string, read: (words: string) => T | undefined): T[] => {
    const found: T[] = [];
    while (lines[at]?.startsWith(`${key} `)) found.push(need(key, read));
    return found;
  };
  if (lines[at++] !== FIRST) throw fault(place, 1, `no manifest of this kind: the first line is not ${FIRST}`);
  const head = { name: need('name', nameOf), arch: need('arch', nameOf), serial: need('serial', numberOf), digest: need('digest', digestOf), kernel: need('kernel', blobOf) };
  const files = { initrds: many('initrd', blobOf), squashfs: need('squashfs', blobOf) };
  const verity = lines[at]?.startsWith('verity ') ? need('verity', verityOf) : undefined;
  const cmdline = lines[at]?.startsWith('cmdline ') ? need('cmdline', wordsOf) : [];
  const rest = { json: need('json', digestOf), chunkSize: need('chunk-size', numberOf), chunks: many('chunk', hexOnly) };
  if (at < lines.length) throw fault(place, at + 1, 'nothing should stand here');
  return { ...head, ...files, ...(verity ? { verity } : {}), cmdline, ...rest };
}

/** Signs the manifest and stores text and signature. The answer has them named; recording it is the caller's. STORE_UNUSABLE. */
export async function signManifest(manifest: ImageManifest, key: SecretKey, blobs: Pick<BlobStore, 'add'>): Promise<ImageManifest> {
  const text = signedText(manifest);
  const signature = signatureText(Buffer.from(text), key, `rackseed image ${manifest.name} serial ${manifest.serial ?? 0} digest ${manifest.digest}`);
  const stored = async (content: string): Promise<BlobRef> => blobs.add(Readable.from([Buffer.from(content)]));
  return { ...manifest, signed: { manifest: await stored(text), signature: await stored(signature) } };
}

/** SIGNATURE_INVALID unless text and signature are good by one of the keys, and the text is of just this manifest. */
export function verifySigned(manifest: ImageManifest, text: string, signature: string, keys: readonly PublicKey[]): Signed {
  const place = `image ${manifest.name}@${manifest.digest}`;
  const signed = verifySignature(Buffer.from(text), signature, keys, place);
  if (text !== signedText(manifest)) throw new AppError('SIGNATURE_INVALID', `${place}: what was signed is another manifest`, 'sign it again: rackseed image sign');
  return signed;
}

const nameOf = (words: string): string | undefined => (/^[a-z0-9][a-z0-9._-]*$/.test(words) ? words : undefined);
const numberOf = (words: string): number | undefined => (/^(0|[1-9][0-9]{0,14})$/.test(words) ? Number(words) : undefined);
const digestOf = (words: string): Digest | undefined => (isDigest(words) ? words : undefined);
const hexOnly = (words: string): string | undefined => (isDigest(`sha256:${words}`) ? words : undefined);
const wordsOf = (words: string): readonly string[] | undefined => (/^[\x21-\x7e]+( [\x21-\x7e]+)*$/.test(words) ? words.split(' ') : undefined);

function blobOf(words: string): BlobRef | undefined {
  const [digest = '', size = '', ...more] = words.split(' ');
  const bytes = numberOf(size);
  return isDigest(digest) && bytes !== undefined && more.length === 0 ? { digest, size: bytes } : undefined;
}

function verityOf(words: string): VerityRef | undefined {
  const [rootHash = '', blocks = '', ...more] = words.split(' ');
  const count = numberOf(blocks);
  return hexOnly(rootHash) !== undefined && count !== undefined && more.length === 0 ? { rootHash, blocks: count } : undefined;
}

function fault(place: string, line: number, why: string): AppError {
  return new AppError('SIGNATURE_INVALID', `${place}:${line}:1: ${why}`, 'a signed manifest is written by rackseed image build or rackseed image sign');
}
