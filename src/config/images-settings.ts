// `images` of rackseed.yaml: where the operator's own images are, what signs builds, and what the initrd trusts.
import { dirname, resolve, sep } from 'node:path';
import { z } from 'zod';
import type { Fault } from '../errors.ts';
import type { YamlFile } from './document.ts';

export const imagesSchema = z.strictObject({
  dir: z.string().min(1).default('images').describe('directory of own images, each a folder with an image.yaml; searched before the shipped ones; relative to this file'),
  sign: z.string().min(1).optional().describe('secret key that signs each build (rackseed keys init images); relative to this file'),
  keys: z.array(z.string().min(1)).default([]).describe('public keys that the initrd trusts, two while one replaces the other; default: the one beside sign'),
  floor: z.number().int().min(0).max(999_999_999_999).optional().describe('the initrd takes no signed image with an older serial'),
});

/** Absolute paths; nothing is read before an image is built. */
export interface ImagesSettings {
  readonly dir: string;
  readonly sign?: string;
  readonly keys: readonly string[];
  readonly floor?: number;
}

/** What a schema cannot say comes as faults. */
export function imagesSettings(raw: z.infer<typeof imagesSchema>, stateDir: string, yaml: YamlFile): { readonly images: ImagesSettings; readonly faults: readonly Fault[] } {
  const base = dirname(resolve(yaml.file));
  const faults: Fault[] = [];
  const images = {
    dir: resolve(base, raw.dir),
    ...(raw.sign === undefined ? {} : { sign: resolve(base, raw.sign) }),
    keys: raw.keys.map((key) => resolve(base, key)),
    ...(raw.floor === undefined ? {} : { floor: raw.floor }),
  };
  if (images.sign?.startsWith(stateDir + sep)) {
    faults.push({ file: yaml.file, ...yaml.place(['images', 'sign']), message: `images.sign: ${raw.sign} is in the state directory, which the daemon owns`, hint: 'the daemon needs no key: keep it where only those who build images may read' });
  }
  if (images.floor !== undefined && images.sign === undefined && images.keys.length === 0) {
    faults.push({ file: yaml.file, ...yaml.place(['images', 'floor']), message: 'images.floor: without sign and keys nothing tells the initrd an image\'s serial', hint: 'rackseed keys init images' });
  }
  return { images, faults };
}
