// `rackseed schema`: the JSON Schemas of our YAML files, for editors on machines without this source tree.
import { jsonSchemas } from '../config/json-schema.ts';
import { nearest } from '../config/faults.ts';
import { AppError } from '../errors.ts';

/** What people call each, and its file in docs/schema/. */
export const SCHEMAS = { settings: 'rackseed.schema.json', profile: 'boot-profile.schema.json', image: 'image.schema.json', quirks: 'quirks.schema.json' } as const;

/** The text of the file in docs/schema/. USAGE for another word. */
export function schemaCommand(kind: string): string {
  if (!Object.hasOwn(SCHEMAS, kind)) throw new AppError('USAGE', `no schema ${kind}${near(kind)}`, `one of ${Object.keys(SCHEMAS).join(', ')}`);
  return jsonSchemas()[SCHEMAS[kind as keyof typeof SCHEMAS]]!;
}

function near(kind: string): string {
  const word = nearest(kind, Object.keys(SCHEMAS));
  return word ? `: did you mean ${word}?` : '';
}
