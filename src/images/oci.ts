// Images as OCI artifacts (image-spec 1.1): what an export has in oci-layout, index.json and each manifest, and what an import takes from them.
import { z } from 'zod';
import type { BlobRef } from '../boot/profile.ts';
import { canonicalJson, digestOfBytes, isDigest, type Digest } from '../digest.ts';
import { imageDigest, imageFiles, type ImageFile, type ImageManifest } from './manifest.ts';
import { isImageName } from './spec.ts';

export const LAYOUT_FILE = 'oci-layout';
export const INDEX_FILE = 'index.json';
export const ARTIFACT_TYPE = 'application/vnd.rackseed.image.v1';
const CONFIG_TYPE = 'application/vnd.rackseed.image.config.v1+json';
const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json';
const INDEX_TYPE = 'application/vnd.oci.image.index.v1+json';
const REF_NAME = 'org.opencontainers.image.ref.name';

const LAYER_TYPES: Readonly<Record<ImageFile['kind'], string>> = {
  kernel: 'application/vnd.rackseed.kernel.v1',
  initrd: 'application/vnd.rackseed.initrd.v1',
  squashfs: 'application/vnd.rackseed.squashfs.v1',
  payload: 'application/octet-stream',
  uki: 'application/vnd.microsoft.portable-executable',
  sbom: 'application/spdx+json',
  'signed manifest': 'application/vnd.rackseed.signed-manifest.v1',
  signature: 'application/vnd.minisign.signature',
};

/** A small file of the layout, whose text is known. */
export interface LayoutText {
  readonly path: string;
  readonly text: string;
}

/** In the order in which an archive has them, so that it can be judged before its large files come: the texts, then the blobs, each once. */
export interface Layout {
  readonly texts: readonly LayoutText[];
  readonly blobs: readonly BlobRef[];
}

export function blobPath(digest: Digest): string {
  return `blobs/${digest.replace(':', '/')}`;
}

/** Equal for equal manifests and tags, in whatever order they come. */
export function layoutOf(images: readonly { readonly image: ImageManifest; readonly tags: readonly string[] }[]): Layout {
  const texts = new Map<string, string>();
  const blobs = new Map<Digest, BlobRef>();
  const put = (text: string): BlobRef => {
    const digest = digestOfBytes(text);
    texts.set(blobPath(digest), text);
    return { digest, size: Buffer.byteLength(text) };
  };
  const sorted = [...images].sort((a, b) => order(`${a.image.name} ${a.image.digest}`, `${b.image.name} ${b.image.digest}`));
  const manifests = sorted.flatMap(({ image, tags }) => {
    for (const { digest, size } of imageFiles(image)) blobs.set(digest, { digest, size });
    const config = put(canonicalJson(image));
    const manifest = put(
      canonicalJson({
        schemaVersion: 2,
        mediaType: MANIFEST_TYPE,
        artifactType: ARTIFACT_TYPE,
        config: { mediaType: CONFIG_TYPE, ...config },
        layers: imageFiles(image).map(({ kind, file, digest, size }) => ({ mediaType: LAYER_TYPES[kind], digest, size, annotations: { 'org.opencontainers.image.title': file } })),
        annotations: {
          'org.opencontainers.image.created': new Date(image.builtAt).toISOString(),
          'org.opencontainers.image.title': image.name,
          'org.opencontainers.image.version': image.digest,
        },
      }),
    );
    const names = tags.length > 0 ? [...tags].sort().map((tag) => `${image.name}:${tag}`) : [`${image.name}@${image.digest}`];
    return names.map((name) => ({ mediaType: MANIFEST_TYPE, artifactType: ARTIFACT_TYPE, ...manifest, annotations: { [REF_NAME]: name } }));
  });
  return {
    texts: [
      { path: LAYOUT_FILE, text: canonicalJson({ imageLayoutVersion: '1.0.0' }) },
      { path: INDEX_FILE, text: canonicalJson({ schemaVersion: 2, mediaType: INDEX_TYPE, manifests }) },
      ...[...texts].map(([path, text]) => ({ path, text })),
    ],
    blobs: [...blobs.values()],
  };
}

const digest = z.string().refine(isDigest, 'not sha256: and 64 hex digits');
const size = z.number().int().nonnegative();
const blob = z.looseObject({ digest, size });
const named = z.string().refine(isImageName, 'not a name');
const hex = z.string().regex(/^[0-9a-f]{64}$/, 'not 64 hex digits');

const layoutSchema = z.looseObject({ imageLayoutVersion: z.literal('1.0.0') });
const descriptor = z.looseObject({ mediaType: z.string(), digest, size, artifactType: z.string().optional(), annotations: z.record(z.string(), z.string()).optional() });
const indexSchema = z.looseObject({ schemaVersion: z.literal(2), manifests: z.array(descriptor).max(10_000) });
const manifestSchema = z.looseObject({ schemaVersion: z.literal(2), artifactType: z.string().optional(), config: descriptor, layers: z.array(descriptor).max(10_000) });
/** Members that this version does not know stay: a signature may be of them. */
const imageSchema = z.looseObject({
  name: named,
  digest,
  arch: z.string().regex(/^[a-z0-9]{1,16}$/),
  kernel: z.looseObject({ digest, size, version: z.string().max(200) }),
  initrds: z.array(blob).min(1).max(100),
  squashfs: z.looseObject({ digest, size, chunkSize: size, chunks: z.array(hex).max(1_000_000) }),
  verity: z.looseObject({ rootHash: hex, blocks: size }).optional(),
  signed: z.looseObject({ manifest: blob, signature: blob }).optional(),
  cmdline: z.array(z.string().regex(/^[\x21-\x7e]+$/)).optional(),
  uki: z.looseObject({ digest, size, cmdline: z.string(), signed: z.boolean() }).optional(),
  sbom: blob.optional(),
  payloads: z.array(z.looseObject({ digest, size, name: z.string() })).optional(),
  serial: size.optional(),
  packages: z.array(z.string().max(1000)).max(100_000),
  input: digest,
  builder: z.string().max(1000),
  builtAt: z.number().min(0).max(8.64e15),
});

export interface LayoutImage {
  readonly image: ImageManifest;
  readonly tags: readonly string[];
}

/** `text` gives a blob of the layout, undefined when it is not there. An Error says what does not fit, and where. */
export async function imagesOf(layout: string, index: string, text: (blob: BlobRef) => Promise<string | undefined>): Promise<readonly LayoutImage[]> {
  parsed(LAYOUT_FILE, layoutSchema, layout);
  const found = new Map<Digest, { image: ImageManifest; tags: Set<string> }>();
  for (const entry of parsed(INDEX_FILE, indexSchema, index).manifests) {
    if (entry.mediaType !== MANIFEST_TYPE) continue;
    const known = found.get(entry.digest);
    const image = known?.image ?? (await imageOf(entry, text));
    if (!image) continue;
    const { tags } = known ?? { tags: new Set<string>() };
    const ref = entry.annotations?.[REF_NAME];
    // Of a copy by way of a registry, the tag is all that is left of the name.
    const tag = ref?.startsWith(`${image.name}:`) ? ref.slice(image.name.length + 1) : ref === undefined || /[:@/]/.test(ref) ? undefined : ref;
    if (tag !== undefined && !isImageName(tag)) throw new Error(`${INDEX_FILE}: ${ref} is not a name and tag`);
    if (tag !== undefined) tags.add(tag);
    found.set(entry.digest, { image, tags });
  }
  return [...found.values()].map(({ image, tags }) => ({ image, tags: [...tags].sort() }));
}

/** undefined for somebody else's: one that is no image of ours. */
async function imageOf(entry: BlobRef & { readonly artifactType?: string | undefined }, text: (blob: BlobRef) => Promise<string | undefined>): Promise<ImageManifest | undefined> {
  if (entry.artifactType !== undefined && entry.artifactType !== ARTIFACT_TYPE) return undefined;
  const read = async (blob: BlobRef): Promise<string> => {
    const content = await text(blob);
    if (content === undefined) throw new Error(`${blobPath(blob.digest)} is missing`);
    return content;
  };
  const manifest = parsed(blobPath(entry.digest), manifestSchema, await read(entry));
  // Tools of before OCI 1.1 drop the artifact's type, and leave the config's.
  if (manifest.artifactType === undefined ? manifest.config.mediaType !== CONFIG_TYPE : manifest.artifactType !== ARTIFACT_TYPE) return undefined;
  const path = blobPath(manifest.config.digest);
  const image = parsed(path, imageSchema, await read(manifest.config)) as unknown as ImageManifest;
  if (imageDigest(image) !== image.digest) throw new Error(`${path}: the image's digest is not that of its files`);
  const layers = new Map(manifest.layers.map((layer) => [layer.digest, layer.size]));
  for (const { kind, digest, size } of imageFiles(image)) if (layers.get(digest) !== size) throw new Error(`${blobPath(entry.digest)}: the ${kind} ${digest} is not among the layers with ${size} bytes`);
  return image;
}

function parsed<T>(path: string, schema: z.ZodType<T>, text: string): T {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error(`${path} is not JSON`);
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new Error(`${path}: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'not understood'}`);
}

function order(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
