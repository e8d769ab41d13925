"""The cloud controller: five modules (design, deploy, provision, runtime, disposal) over platforms."""
