// Where commands look for image.yaml: the operator's own images, then those that rackseed ships.
import { existsSync } from 'node:fs';
import { readSettings, SETTINGS_PLACES } from '../config/settings.ts';
import { SHIPPED } from '../shipped.ts';

/** With `state` no settings are needed; those that are there are read all the same. */
export function imagesDirs({ config, state }: { readonly config?: string; readonly state?: string }): readonly string[] {
  const none = config === undefined && state !== undefined && !SETTINGS_PLACES.some((place) => existsSync(place));
  return none ? [SHIPPED.images] : [readSettings(config).images.dir, SHIPPED.images];
}
