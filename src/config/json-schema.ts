// JSON Schemas for editors, made from the schemas that the daemon itself reads by; docs/schema/ holds them as files.
import { z } from 'zod';
import { imageSchema } from '../images/spec-schema.ts';
import { profileSchema } from './profile-schema.ts';
import { quirksSchema } from './quirks.ts';
import { settingsSchema } from './settings.ts';

/** File name in docs/schema/ -> its text; test/unit/config-schema.test.ts holds the files against it and says how to renew them. */
export function jsonSchemas(): Readonly<Record<string, string>> {
  return {
    'rackseed.schema.json': schemaText(settingsSchema, 'rackseed.yaml', 'Settings of the rackseed daemon.'),
    'boot-profile.schema.json': schemaText(profileSchema, 'boot profile', 'One file of boot-profiles/: what to boot, and which nodes boot it.'),
    'image.schema.json': schemaText(imageSchema, 'image.yaml', 'What an image is made of.'),
    'quirks.schema.json': schemaText(quirksSchema, 'quirks', 'boot-profiles/quirks.yaml: machines that need something else than others of their firmware.'),
  };
}

function schemaText(schema: z.ZodType, title: string, description: string): string {
  const { $schema, ...rest } = z.toJSONSchema(schema, { io: 'input', target: 'draft-7', reused: 'inline' });
  return `${JSON.stringify({ $schema, title, description, ...rest }, null, 2)}\n`;
}
