// Sentry is started by a file of the application's own, as its guide has it.
'use strict'
require('@sentry/node').init({ dsn: process.env.SENTRY_DSN })
