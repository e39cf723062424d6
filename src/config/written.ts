// What profiles name before it is resolved: image with its tag, repository with its ref.
import { basename } from 'node:path';
import type { WrittenRefs } from '../plan.ts';
import { member } from './claims.ts';
import { readYaml } from './document.ts';
import { profileSchema } from './profile-schema.ts';
import type { ProfileFile } from './profiles.ts';
import { isQuirksFile } from './quirks.ts';

/** Of each profile by its name; what is not written, or not readable, is absent. */
export function writtenRefs(files: readonly ProfileFile[]): ReadonlyMap<string, WrittenRefs> {
  return new Map(
    files.filter(({ file }) => !isQuirksFile(file)).map(({ file, text }) => {
      const { value } = readYaml(text, file, { scalars: 'text' });
      const image = member(value, 'image');
      const { data: postBoot } = profileSchema.shape.postBoot.safeParse(member(value, 'postBoot'));
      return [basename(file).replace(/\.ya?ml$/, ''), { ...(typeof image === 'string' ? { image } : {}), ...(postBoot ? { postBoot: { repo: postBoot.repo, ref: postBoot.ref } } : {}) }];
    }),
  );
}
